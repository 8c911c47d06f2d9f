// What a run computes: chains of layers, the blocks of each, and where maps, weights and intermediate values lie in the run's
// memory. blocks.h says why.
#pragma once

#include <algorithm>
#include <climits>
#include <numeric>
#include <vector>

#include "convolution.h"
#include "picture.h"

namespace {

// Features, NHWC, channels padded with zeros to 16s. Sizes are those of the chain's input, times `size`.
struct Map {
  bool whole = true;  // else a piece of it for each block
  int channels = 0, size = 1;
  size_t row = 0;    // floats from one row to the next
  size_t start = 0;  // in the run's memory; a piece: in the thread's
  int place = 0;     // of a piece: two pieces with the same place share memory
  int origin = 0;    // of a piece: offset of its first row and column from those of its block; INT_MAX: unknown
};

struct Layer {
  const Conv* conv = nullptr;  // null: copies the source picture
  const float* U = nullptr;    // its transformed weights; null: each run transforms them
  int in = -1, more = -1;      // maps: channels of `more` follow those of `in`
  int split = 1 << 30;         // channels in `in`
  int up = 1;                  // 2 or 3: every sample of the input is repeated as 2x2 or 3x3
  int out = -1;                // map; -1: the result picture
  int channel = 0;             // of `out`, where the results go
  int add[2] = {-1, -1};       // maps
  float scale[2] = {1, 1};     // result = (result * scale + add), one after the other
  int lead = 0;                // offset of its blocks from those of the chain's last layer

  // The rest is filled in by Program::add.
  size_t weights = 0;                      // where the run transforms them to
  int size = 1;                            // of its results
  int border = 0;                          // rows and columns that are kept of each block
  size_t kept_rows = 0, kept_columns = 0;  // where
};

// Weights that a run must transform.
struct Slice {
  const Conv* conv;
  int first;      // channel in
  size_t weights;  // of the layer
};

struct Chain {
  std::vector<Layer> layers;
  std::vector<Slice> slices;
  int H = 0, W = 0;                              // of its input
  int h = 0, w = 0;                              // of a block: multiples of TILE
  int top = 0, left = 0, bottom = 0, right = 0;  // range of the blocks
  int lead = 0;                                  // the largest of its layers, in rows of its input
  bool joined = false;  // the first blocks of layers with a lead begin at the picture's border; else there are blocks before them
  int slack = 0;        // columns that the last blocks may have beyond w
  int side = 0;  // 0 or 1, alternating between chains: the next one begins before this one has ended

  // Multiplications of a plain convolution.
  double work() const {
    double sum = 0;
    for (const Layer& l : layers)
      if (l.conv) sum += 9. * l.conv->KP * l.conv->NP * l.size * l.size * H * W;
    return sum;
  }
};

int ceil_div(int a, int b) { return (a + b - 1) / b; }
int floor_div(int a, int b) { return a >= 0 ? a / b : -ceil_div(-a, b); }
int rounded_up(int a) { return ceil_div(a, TILE) * TILE; }

struct Program {
  Picture picture;
  std::vector<Map> maps;
  std::vector<Chain> chains;
  size_t whole = 0;                      // floats of whole maps
  size_t weights[2] = {};                // of the weights that are transformed for a chain
  size_t rows[2] = {}, columns[2] = {};  // of what is kept; columns for each thread, because each computes one strip
  size_t pieces = 0, scratch = 0;        // of each thread

  int map(int channels, int W, int H) {
    Map m;
    m.channels = channels;
    m.row = size_t(W) * channels + 10 * SKEW;  // never a power of two, because rows would then share cache sets
    m.start = whole;
    whole += m.row * H + 16 * SKEW;
    maps.push_back(m);
    return int(maps.size()) - 1;
  }

  int piece(int channels, int place, int size = 1) {
    Map m;
    m.whole = false;
    m.place = place;
    m.origin = INT_MAX;
    m.channels = channels;
    m.size = size;
    maps.push_back(m);
    return int(maps.size()) - 1;
  }

  // Adds a chain, in blocks of h x w. The pieces that it writes belong to it alone.
  void add(std::vector<Layer> layers, int H, int W, int h, int w) {
    Chain c;
    c.layers = std::move(layers);
    c.H = H;
    c.W = W;
    c.h = h;
    c.w = w;
    c.side = int(chains.size()) % 2;
    size_t weights = 0, kept_rows = 0, kept_columns = 0, held[4] = {};
    std::vector<int> furthest(maps.size(), 0);
    for (const Layer& l : c.layers) c.lead = std::max(c.lead, ceil_div(l.lead, l.in < 0 ? 1 : maps[l.in].size * l.up));
    // Blocks of few columns take nearly as long as others, because they read the same weights.
    c.joined = c.lead <= TILE;
    c.slack = c.joined && w >= 4 * TILE ? TILE : 0;
    for (Layer& l : c.layers) {
      l.size = l.in < 0 ? 1 : maps[l.in].size * l.up;
      for (int in : {l.in, l.more})
        if (in >= 0 && !maps[in].whole) maps[in].origin = std::min(maps[in].origin, floor_div(l.lead - 1, l.up));
      if (l.out >= 0) furthest[l.out] = std::max(furthest[l.out], l.lead);
      if (l.conv) {
        if (!l.U) {
          l.weights = weights;
          weights += l.conv->transformed();
          for (int slice = 0; slice < l.conv->K; slice += DEEP) c.slices.push_back({l.conv, slice, l.weights});
        }
        const size_t tiles = l.conv->together(), NP = l.conv->NP;
        scratch = std::max(scratch, PLACES * (tiles * (DEEP + NP) + 2 * SKEW) + TILE * TILE * NP);
      }
    }
    const auto written = [&](int id, auto f) {
      if (!maps[id].whole && furthest[id]) f(maps[id], furthest[id] - (c.joined ? std::min(0, maps[id].origin) : maps[id].origin));
    };
    for (size_t i = 0; i < maps.size(); i++)
      written(i, [&](Map& m, int beyond) {
        m.row = size_t(m.size * (w + c.slack) + beyond) * m.channels + 10 * SKEW;
        held[m.place] = std::max(held[m.place], m.row * (m.size * h + beyond) + 16 * SKEW);
      });
    for (size_t i = 0; i < maps.size(); i++)
      written(i, [&](Map& m, int) { m.start = std::accumulate(held, held + m.place, size_t{0}); });
    for (Layer& l : c.layers) {
      if (l.out < 0 || maps[l.out].whole) continue;
      l.border = l.lead - maps[l.out].origin;
      if (!l.conv) continue;  // it can be read again
      l.kept_rows = kept_rows;
      l.kept_columns = kept_columns;
      kept_rows += size_t(l.border) * l.size * W * l.conv->NP;
      kept_columns += size_t(l.border) * (l.size * h + l.border + (c.joined ? l.lead : 0)) * l.conv->NP;
    }
    c.top = c.joined ? 0 : floor_div(-c.lead, h);
    c.left = c.joined ? 0 : floor_div(-c.lead, w);
    c.bottom = ceil_div(H, h);
    c.right = std::max(1, ceil_div(W - c.slack, w));
    pieces = std::max(pieces, std::accumulate(held, held + 4, size_t{0}));
    this->weights[c.side] = std::max(this->weights[c.side], weights);
    rows[c.side] = std::max(rows[c.side], kept_rows);
    columns[c.side] = std::max(columns[c.side], kept_columns);
    chains.push_back(std::move(c));
  }

  size_t of_maps() const { return (whole + rows[0] + rows[1] + 15) / 16 * 16; }
  size_t of_all() const { return of_maps() + weights[0] + weights[1]; }
  size_t of_thread() const { return (scratch + pieces + columns[0] + columns[1] + 1023) / 1024 * 1024; }
  size_t bytes(int threads) const { return (of_all() + of_thread() * threads) * sizeof(float); }

  // The number of threads that can have work: at most two chains run at a time.
  int useful() const {
    long most = 1, last = 0;
    for (const Chain& c : chains) {
      const long blocks = long(c.bottom - c.top) * (c.right - c.left);
      most = std::max(most, last + blocks);
      last = blocks;
    }
    return int(std::min<long>(most, INT_MAX));
  }
};

}  // namespace
