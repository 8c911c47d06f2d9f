// Computes chains of convolutions block by block, in several threads.
//
// After a layer has computed a block, the next layer uses it at once, until the chain's end. So the maps between layers are
// only pieces, as large as a block, which stay in the cache; whole maps would be written to memory and read again for
// every layer. But a result needs samples on all sides. So the blocks of each layer are one row and one column further
// down and to the right than those of the next layer (its `lead`). The samples above and to the left were kept when the
// neighbouring blocks were computed: the last rows of a block for the block below, the last columns for the block to its
// right.
//
// Threads take the blocks in order. Each block goes through its whole chain, and waits for the layers of its neighbours. The
// positions of a layer's tiles do not depend on the size of the blocks, so the results depend neither on that nor on the
// number of threads; only on whether layers form a chain, as they do in all pictures that are not small.
#pragma once

#include <sched.h>

#include <atomic>
#include <climits>
#include <memory>

#include "program.h"

namespace {

// A map, or the piece of it that belongs to a block.
struct Plane {
  float* base = nullptr;
  long row = 0, pixel = 0, top = 0, left = 0;
  float* at(long y, long x) const { return base + (y - top) * row + (x - left) * pixel; }
};

// ---- one tile ----

// SIDE x SIDE samples of LANES channels, given by `sample(y, x)`, to PLACES places `step` apart.
template <class Sample>
ALWAYS_INLINE void gather(Sample sample, float* V, size_t step) {
  for (int i = 0; i < PLACES; i++) __builtin_prefetch(V + size_t(i) * step, 1);
  Vec d[SIDE][SIDE];
#pragma GCC unroll 8
  for (int x = 0; x < SIDE; x++) {
    Vec column[SIDE], o[SIDE];
#pragma GCC unroll 8
    for (int y = 0; y < SIDE; y++) column[y] = sample(y, x);
    transform_in(column, o);
#pragma GCC unroll 8
    for (int y = 0; y < SIDE; y++) d[y][x] = o[y];
  }
#pragma GCC unroll 8
  for (int y = 0; y < SIDE; y++) {
    Vec o[SIDE];
    transform_in(d[y], o);
#pragma GCC unroll 8
    for (int x = 0; x < SIDE; x++) store(V + size_t(y * SIDE + x) * step, o[x]);
  }
}

// One layer of one block.
struct Work {
  const Layer& layer;
  const float* U;  // transformed weights
  int H, W;        // of its results' map
  Plane in, more, out, add[2];

  // The transformed samples of the tile whose results begin at (y0, x0), of channels `first` to `last`. Outside the picture
  // they are zero.
  void read(int y0, int x0, int first, int last, float* V, size_t step) const {
    const int up = layer.up;
    y0--, x0--;
    // The fast ways below know up 1, and up 2 of tiles that begin at even places.
    const bool inside = up < 3 && y0 >= 0 && x0 >= 0 && y0 + SIDE <= H && x0 + SIDE <= W;
    for (int part = 0; part < 2; part++) {
      const Plane& map = part ? more : in;
      const int origin = part ? layer.split : 0;
      const int begin = std::max(first, origin), end = part ? last : std::min(last, layer.split);
      if (begin >= end) continue;
      const float* rows[SIDE];
      for (int y = 0; y < SIDE; y++)
        rows[y] = y0 + y < 0 || y0 + y >= H ? nullptr : map.at((y0 + y) / up, inside ? x0 / up : 0);
      const long pixel = map.pixel;
      float* to = V + begin - first;
      for (int c = begin - origin; c < end - origin; c += LANES, to += LANES) {
        if (!inside) {
          const auto sample = [&](int y, int x) {
            const int column = x0 + x;
            return rows[y] && column >= 0 && column < W ? load(rows[y] + column / up * pixel + c) : Vec{};
          };
          gather(sample, to, step);
        } else if (up == 1) {
          // Prefetch the next tile's new columns: the hardware does not recognise this pattern.
          for (int y = 0; y < SIDE; y++)
            for (int x = SIDE; x < SIDE + TILE; x++) __builtin_prefetch(rows[y] + x * pixel + c);
          gather([&](int y, int x) { return load(rows[y] + x * pixel + c); }, to, step);
        } else {
          gather([&](int y, int x) { return load(rows[y] + (x + 1) / 2 * pixel + c); }, to, step);
        }
      }
    }
  }

  // A tile's results, transformed back, with bias, activation and what is added, to `out`, or to `tile` if there is
  // none. WHOLE: all of them are inside the picture, so that loops can be unrolled.
  template <bool WHOLE, bool UPSAMPLED>
  ALWAYS_INLINE void scatter(int y0, int x0, const float* M, size_t step, float* tile) const {
    const int NP = layer.conv->NP;
    const int left = std::max(0, -x0), right = std::min(TILE, W - x0);
    const bool active = layer.conv->active;
    float *to[TILE], *from[2][TILE];
    for (int y = 0; y < TILE; y++) {
      const bool there = WHOLE || (y0 + y >= 0 && y0 + y < H);
      to[y] = !out.base ? tile + y * TILE * NP : there ? out.at(y0 + y, x0) : nullptr;
      for (int i = 0; i < 2; i++) from[i][y] = add[i].base && there ? add[i].at(y0 + y, x0) : nullptr;
    }
    const long pixel = out.base ? out.pixel : NP;
    for (int c = 0; c < NP; c += LANES) {
      Vec d[TILE][SIDE];
#pragma GCC unroll 8
      for (int x = 0; x < SIDE; x++) {
        Vec column[SIDE], o[TILE];
#pragma GCC unroll 8
        for (int y = 0; y < SIDE; y++)
          column[y] = UPSAMPLED && (y == 2 || x == 2) ? Vec{} : load(M + size_t(y * SIDE + x) * step + c);
        if (x == 1) column[1] += load(layer.conv->bias + c);  // which adds it equally to all results
        transform_out(column, o);
#pragma GCC unroll 8
        for (int y = 0; y < TILE; y++) d[y][x] = o[y];
      }
      const Vec slope = load(layer.conv->slope + c);
#pragma GCC unroll 8
      for (int y = 0; y < TILE; y++) {
        if (!WHOLE && !to[y]) continue;
        Vec o[TILE];
        transform_out(d[y], o);
#pragma GCC unroll 8
        for (int x = 0; x < TILE && active; x++) o[x] = o[x] > 0.f ? o[x] : o[x] * slope;
        for (int i = 0; i < 2; i++)
          if (from[i][y]) {
#pragma GCC unroll 8
            for (int x = 0; x < TILE; x++)
              if (WHOLE || (x >= left && x < right))
                o[x] = o[x] * layer.scale[i] + load(from[i][y] + x * add[i].pixel + c);
          }
#pragma GCC unroll 8
        for (int x = 0; x < TILE; x++)
          if (WHOLE || (x >= left && x < right)) store(to[y] + x * pixel + c, o[x]);
      }
    }
  }

  void write(const Picture& picture, int y0, int x0, const float* M, size_t step, float* tile) const {
    if (layer.up == 2) scatter<false, true>(y0, x0, M, step, tile);
    else if (y0 >= 0 && x0 >= 0 && y0 + TILE <= H && x0 + TILE <= W) scatter<true, false>(y0, x0, M, step, tile);
    else scatter<false, false>(y0, x0, M, step, tile);
    if (out.base) return;
    of_type(picture.result.type, [&](auto sample) {
      using Sample = decltype(sample);
      const auto samples = picture.shuffle == 4 ? write_samples<4, Sample> : write_samples<0, Sample>;
      samples(picture, tile, layer.conv->NP, y0, x0, H, W);
    });
  }

  // Results in the rows `top` to `bottom` and the columns `left` to `right`.
  void compute(const Picture& picture, int top, int left, int bottom, int right, float* scratch) const {
    const Conv& conv = *layer.conv;
    const int first = layer.lead % TILE;  // of all tiles: blocks begin at multiples of TILE beyond `lead`
    const int y0 = first + floor_div(top - first, TILE) * TILE, x0 = first + floor_div(left - first, TILE) * TILE;
    const int wide = ceil_div(right - x0, TILE), tiles = ceil_div(bottom - y0, TILE) * wide;
    const int times = ceil_div(tiles, conv.together()), together = ceil_div(tiles, times);
    const size_t vstep = size_t(together) * DEEP + SKEW, mstep = size_t(together) * conv.NP + SKEW;
    float *V = scratch, *M = V + PLACES * vstep, *tile = M + PLACES * mstep;
    for (int start = 0; start < tiles; start += together) {
      const int n = std::min(together, tiles - start);
      const auto y = [&](int t) { return y0 + (start + t) / wide * TILE; };
      const auto x = [&](int t) { return x0 + (start + t) % wide * TILE; };
      for (int slice = 0; slice < conv.K; slice += DEEP) {
        const int end = std::min(conv.KP, slice + DEEP);
        for (int t = 0; t < n; t++) read(y(t), x(t), slice, end, V + t * DEEP, vstep);
        const auto multiply = slice ? multiply_slice<true> : multiply_slice<false>;
        multiply(conv, U, slice, n, V, vstep, M, mstep, layer.up == 2);
      }
      for (int t = 0; t < n; t++) write(picture, y(t), x(t), M + size_t(t) * conv.NP, mstep, tile);
    }
  }
};

// ---- one block ----

// Rows of a chain's blocks that are computed in one run.
struct Strips {
  const Chain* chain;
  int top, bottom;
  long first;  // number of its first block in the run
  int across() const { return chain->right - chain->left; }
  long count() const { return long(bottom - top) * across(); }
};

// A part of a map, `channels` floats of each pixel.
inline void copy(const Plane& from, const Plane& to, int top, int left, int bottom, int right, int channels) {
  if (left >= right) return;
  for (int y = top; y < bottom; y++) {
    const float* a = from.at(y, left);
    float* b = to.at(y, left);
    if (from.pixel == channels && to.pixel == channels) {
      std::memcpy(b, a, size_t(right - left) * channels * sizeof(float));
      continue;
    }
    for (int x = 0; x < right - left; x++) std::memcpy(b + x * to.pixel, a + x * from.pixel, channels * sizeof(float));
  }
}

struct Run {
  static constexpr int ENDED = 1 << 30;

  const Program& program;
  float* memory;  // of_all floats, then of_thread for each thread
  int threads;    // for which there is memory
  std::vector<Strips> parts;
  std::atomic<long> next{0};
  std::unique_ptr<std::atomic<int>[]> layers;  // number of layers that are done, of each block
  std::unique_ptr<std::atomic<int>[]> begun, transformed;  // number of slices, of each part

  Run(const Program& p, float* m, int t, std::vector<Strips> s)
      : program(p), memory(m), threads(t), parts(std::move(s)) {
    layers.reset(new std::atomic<int>[blocks()]);
    begun.reset(new std::atomic<int>[parts.size()]);
    transformed.reset(new std::atomic<int>[parts.size()]);
    for (long i = 0; i < blocks(); i++) layers[i].store(0, std::memory_order_relaxed);
    for (size_t i = 0; i < parts.size(); i++) begun[i].store(0, std::memory_order_relaxed);
    for (size_t i = 0; i < parts.size(); i++) transformed[i].store(0, std::memory_order_relaxed);
  }

  long blocks() const { return parts.back().first + parts.back().count(); }
  float* weights(const Chain& chain) const {
    return memory + program.of_maps() + (chain.side ? program.weights[0] : 0);
  }
  float* own(int thread) const { return memory + program.of_all() + program.of_thread() * thread; }

  template <class Ready>
  static void wait(Ready ready) {
    for (int spins = 0; !ready();) {
      if (++spins > 100) sched_yield();
      else __builtin_ia32_pause();
    }
  }

  // Each thread calls this.
  void work(int thread) {
    size_t i = 0, last = SIZE_MAX;  // `last`: part of the block before
    long ended = 0;                 // all blocks before this one have ended
    const auto wait_for = [&](long needed) {
      wait([&] {
        while (ended < needed && layers[ended].load(std::memory_order_acquire) == ENDED) ended++;
        return ended >= needed;
      });
    };
    for (;;) {
      // What a block keeps overwrites that of another block, `threads` strips before. That block no longer needs it, because
      // otherwise each strip between them would have a block that is being computed. The memory order makes this visible
      // to other threads.
      const long block = next.fetch_add(1, std::memory_order_acq_rel);
      while (i < parts.size() && block >= parts[i].first + parts[i].count()) i++;
      if (i == parts.size()) return;
      const int y = parts[i].top + int((block - parts[i].first) / parts[i].across());
      const int x = parts[i].chain->left + int((block - parts[i].first) % parts[i].across());
      if (i != last) {
        // The weights overwrite those of the chain before the previous one.
        if (i > 0) wait_for(parts[i - 1].first);
        transform(i);
        last = i;
      }
      if (i > 0) wait_for(before(i, y, x));
      through(parts[i], block, y, x, thread);
    }
  }

  // Transforms the weights of part i, together with other threads.
  void transform(size_t i) {
    const std::vector<Slice>& slices = parts[i].chain->slices;
    const int all = int(slices.size());
    for (int s; (s = begun[i].fetch_add(1, std::memory_order_relaxed)) < all;) {
      slices[s].conv->transform(slices[s].first, weights(*parts[i].chain) + slices[s].weights);
      transformed[i].fetch_add(1, std::memory_order_release);
    }
    wait([&] { return transformed[i].load(std::memory_order_acquire) == all; });
  }

  // What must be done before a block of part i: all blocks of the previous part that write what this block reads, or read
  // what it writes. Where blocks are equal (single layers, RRDBNet's dense blocks), they are at most one block away; other
  // parts write to maps that the previous part does not use. All earlier parts have ended.
  long before(size_t i, int y, int x) const {
    const Chain &chain = *parts[i].chain, &last = *parts[i - 1].chain;
    const int rows = std::min(chain.H, chain.h * (y + 1) + chain.lead + 1);
    const int columns = x + 1 == chain.right ? chain.W : std::min(chain.W, chain.w * (x + 1) + chain.lead + 1);
    const int row = (rows - 1) / last.h, column = std::min((columns - 1) / last.w, last.right - 1);
    return parts[i - 1].first + long(row - parts[i - 1].top) * parts[i - 1].across() + (column - last.left) + 1;
  }

  // One block through all layers of its chain.
  void through(const Strips& part, long block, int y, int x, int thread) {
    const Chain& chain = *part.chain;
    float* pieces = own(thread) + program.scratch;
    const auto plane = [&](int id) {
      if (id < 0) return Plane{};
      const Map& m = program.maps[id];
      if (m.whole) return Plane{memory + m.start, long(m.row), m.channels, 0, 0};
      const int first = std::min(0, m.origin);  // of the first blocks, if `joined`
      return Plane{pieces + m.start, long(m.row), m.channels,
                   chain.joined && y == chain.top ? first : long(m.size) * chain.h * y + m.origin,
                   chain.joined && x == chain.left ? first : long(m.size) * chain.w * x + m.origin};
    };
    for (size_t i = 0; i < chain.layers.size(); i++) {
      const Layer& l = chain.layers[i];
      Work work{l, l.U ? l.U : weights(chain) + l.weights, chain.H * l.size, chain.W * l.size, plane(l.in), plane(l.more), plane(l.out), {}};
      for (int a = 0; a < 2; a++) work.add[a] = plane(l.add[a]);
      if (work.out.base) work.out.base += l.channel;
      const int y0 = chain.joined && y == chain.top ? 0 : l.size * chain.h * y + l.lead;
      const int x0 = chain.joined && x == chain.left ? 0 : l.size * chain.w * x + l.lead;
      const int y1 = l.size * chain.h * (y + 1) + l.lead;
      const int x1 = std::max(l.size * chain.w * (x + 1) + l.lead, x + 1 == chain.right ? work.W : 0);
      const int bottom = std::min(work.H, y1), right = std::min(work.W, x1);
      if (!l.conv) {
        const int top = std::max(0, y0 - l.border), left = std::max(0, x0 - l.border);
        for (int row = top; row < bottom && left < right; row++)
          read_row(program.picture, row, left, right, work.out.at(row, left), int(work.out.pixel));
        continue;
      }
      const int top = std::max(0, y0), left = std::max(0, x0);
      if (top < bottom && left < right) work.compute(program.picture, top, left, bottom, right, own(thread));
      if (!l.border) continue;
      const int D = l.border, NP = l.conv->NP;
      const long across = long(work.W) * NP, narrow = long(D) * NP;
      float* rows = memory + program.whole + (chain.side ? program.rows[0] : 0) + l.kept_rows;
      float* columns = own((y - chain.top) % threads) + program.scratch + program.pieces +
                       (chain.side ? program.columns[0] : 0) + l.kept_columns;
      const Plane above{rows, across, NP, y0 - D, 0}, below{rows, across, NP, y1 - D, 0};
      const Plane before{columns, narrow, NP, y0 - D, x0 - D}, after{columns, narrow, NP, y0 - D, x1 - D};
      const auto wait_for = [&](long other) {
        wait([&] { return layers[other].load(std::memory_order_acquire) > int(i); });
      };
      // Copy from the neighbours; then, in the same places, keep for the next blocks.
      const int high = std::max(0, y0 - D);
      if (y > part.top) wait_for(block - part.across());
      if (y > chain.top) copy(above, work.out, high, left, std::min(work.H, y0), right, NP);
      if (x > chain.left) wait_for(block - 1);
      if (x > chain.left) copy(before, work.out, high, std::max(0, x0 - D), bottom, std::min(work.W, x0), NP);
      copy(work.out, below, std::max(0, y1 - D), left, bottom, right, NP);
      copy(work.out, after, high, std::max(0, x1 - D), bottom, right, NP);
      layers[block].store(int(i) + 1, std::memory_order_release);
    }
    layers[block].store(ENDED, std::memory_order_release);
  }
};

}  // namespace
