// Networks of 3x3 convolutions on the CPU: the two of Real-ESRGAN, laid out as chains of blocks, and what Python calls.
//
//   convolution.h  the arithmetic of a tile
//   picture.h      how samples are stored
//   program.h      chains of layers, their blocks and memory
//   blocks.h       the order in which blocks and layers are computed, and by which thread
//   memory.h       large blocks of memory
//
// The only global state is the unused memory that is kept. No function throws.

#include <thread>

#include "blocks.h"
#include "memory.h"

namespace {

// ---- networks ----

// The transformed weights of convolutions. Throws bad_alloc.
struct Weights {
  Held block;
  std::vector<const float*> of;

  explicit Weights(const std::vector<std::unique_ptr<Conv>>& convs) {
    size_t size = 0;
    for (const auto& conv : convs) size += conv->transformed();
    static_cast<Block&>(block) = take(size * sizeof(float));
    if (!block.data) throw std::bad_alloc();
    float* U = static_cast<float*>(block.data);
    for (const auto& conv : convs) {
      for (int slice = 0; slice < conv->K; slice += DEEP) conv->transform(slice, U);
      of.push_back(U);
      U += conv->transformed();
    }
  }
};

constexpr int AREA = 5200;   // pixels of a block of 64 features, borders included: two blocks fit into the cache
constexpr int HIGHEST = 48;  // rows of a block
constexpr int BLOCK = 24;    // tiles of a block of a single layer
constexpr int SMALL = 9600;  // pixels of a picture whose whole maps fit into the cache

// The columns of a block of `h` rows, where each of its pixels takes `floats`, `around` more rows and columns among
// them: as many as the cache allows, but so few that each thread has some blocks of the `rows` that are computed at a time. At
// least 24, so that borders are a small part.
int columns_of(int rows, int W, int h, int around, int floats, int threads) {
  const long most = long(AREA) * 128 / floats / (h + around) - around;
  const long fair = long(rows) * W / (4 * threads) / h;
  return std::min(rounded_up(W), std::max(4, int(std::min(most, fair) / TILE)) * TILE);
}

enum Kind { CONV, SRVGG, RRDB };

struct Net {
  Kind kind;
  int features, growth, blocks, channels, opaque, unshuffle, shuffle, up, ups;
  std::vector<std::unique_ptr<Conv>> convs;
  mutable std::mutex lock;
  mutable bool again = false;                        // the picture before was a small one
  mutable std::shared_ptr<const Weights> transformed;  // of all convolutions; for small pictures

  // An RRDBNet's picture whose whole maps fit into the cache.
  bool small(int H, int W) const { return long(H) * W * (4 * padded(growth) + 2 * padded(features)) <= long(SMALL) * 128; }

  // An RRDBNet's transformed weights for a picture, or null: its run transforms those of a chain just before it uses them.
  // For small pictures that would take a tenth of the time, so from the second one in a row on all are kept, which takes
  // seven times the memory of the others; until a larger picture comes, which needs memory for its maps.
  std::shared_ptr<const Weights> weights(int H, int W) const {
    if (kind != RRDB) return nullptr;
    const std::lock_guard<std::mutex> guard(lock);
    const bool keep = small(H, W) && again;
    again = small(H, W);
    if (!keep) transformed = nullptr;
    else if (!transformed) try {
        transformed = std::make_shared<const Weights>(convs);
      } catch (...) {  // no memory
      }
    return transformed;
  }

  // `step`: for SRVGG, rows after multiples of which it must be able to stop; 0: none. `weights`: of `weights`.
  Program program(int H, int W, int step, int threads, const Weights* weights = nullptr) const {
    Program p;
    const auto of = [&](size_t i) {
      Layer l;
      l.conv = convs[i].get();
      l.U = weights ? weights->of[i] : l.conv->U;
      return l;
    };
    p.picture.channels = channels;
    p.picture.opaque = opaque;
    p.picture.out_channels = kind == CONV ? features : channels;
    p.picture.unshuffle = unshuffle;
    p.picture.shuffle = shuffle;
    Layer source;
    const int packed = padded((channels + opaque) * unshuffle * unshuffle);
    const int high = std::min(HIGHEST, rounded_up(H)), F = padded(features);
    // A single layer, from one whole map to another: blocks of about BLOCK tiles, or fewer, so that each thread has some. All
    // such layers have the same blocks, see Run::before.
    const auto alone = [&](const Layer& layer) {
      const int across = ceil_div(W, TILE), down = ceil_div(H, TILE);
      const int tiles = std::clamp(ceil_div(down * across, threads), TILE, BLOCK);
      const int wide = ceil_div(across, ceil_div(across, tiles));
      p.add({layer}, H, W, TILE * std::max(1, tiles / wide), TILE * wide);
    };
    if (kind == CONV) {
      Layer conv = of(0);
      conv.in = source.out = p.map(packed, W, H);
      conv.up = up;
      alone(source);
      alone(conv);
    } else if (kind == SRVGG) {
      p.picture.base = true;
      const int count = int(convs.size());
      std::vector<Layer> layers{source};
      for (int i = 0; i < count; i++) layers.push_back(of(i));
      if (!step && long(H) * W * 2 * F <= long(SMALL) * 128) {
        const int two[2] = {p.map(F, W, H), p.map(F, W, H)};
        layers[0].out = p.map(packed, W, H);
        for (int i = 0; i <= count; i++) {
          if (i) layers[i].in = layers[i - 1].out;
          if (i && i < count) layers[i].out = two[i % 2];
          alone(layers[i]);
        }
        return p;
      }
      layers[0].out = p.piece(packed, 2);
      int h = high;
      if (step)
        for (h = step; h > HIGHEST || step % h; ) h -= TILE;
      for (int i = 0; i <= count; i++) {
        layers[i].lead = count - i;
        if (i) layers[i].in = layers[i - 1].out;
        if (i && i < count) layers[i].out = p.piece(F, i % 2);
      }
      p.add(layers, H, W, h, columns_of(step ? std::min(step, H) : H, W, h, 2, 2 * F, threads));
    } else {
      const int G = padded(growth);
      const int x[3] = {p.map(F, W, H), p.map(F, W, H), p.map(F, W, H)};
      source.out = p.map(packed, W, H);
      int c = 0;
      const auto conv = [&](int in, int out) {
        Layer l = of(c++);
        l.in = in;
        l.out = out;
        return l;
      };
      alone(source);
      alone(conv(source.out, x[0]));
      const int floats = 4 * G + 2 * F, wide = columns_of(H, W, high, 5, floats, threads);
      const bool small = this->small(H, W);
      const int all = small ? p.map(4 * G, W, H) : -1;
      for (int block = 0; block < blocks; block++)
        for (int j = 0; j < 3; j++) {
          const int in = x[j], grown = small ? all : p.piece(4 * G, 0);
          std::vector<Layer> layers;
          for (int k = 0; k < 5; k++) {
            Layer l = conv(in, k < 4 ? grown : x[(j + 1) % 3]);
            l.channel = k < 4 ? k * G : 0;
            l.more = k ? grown : -1;
            l.split = F;
            l.lead = small ? 0 : 4 - k;
            if (k == 4) {
              l.add[0] = in;
              l.scale[0] = .2f;
              if (j == 2) {  // the last of the three: the input of the first is added, in place
                l.add[1] = x[0];
                l.scale[1] = .2f;
              }
            }
            if (small) alone(l);
            layers.push_back(l);
          }
          if (!small) p.add(layers, H, W, high, wide);
        }
      // The first layer's result, which is added at the end, is computed again: to keep it would take a fourth map.
      const int last = c;
      c = 0;
      alone(conv(source.out, x[2]));
      c = last;
      Layer body = conv(x[0], x[1]);
      body.add[0] = x[2];
      alone(body);
      // There are no whole maps at twice and four times the size, which would take 4 and 16 times the memory.
      std::vector<Layer> tail;
      int size = 1, pixel = 0;  // `pixel`: floats of all pieces for a pixel of the chain's input
      for (int i = 0; i < ups + 2; i++) {
        const bool last = i == ups + 1;
        size *= i < ups ? up : 1;
        pixel += last ? 0 : size * size * F;
        tail.push_back(conv(i ? tail[i - 1].out : x[1], last ? -1 : p.piece(F, i % 4, size)));
        tail[i].up = i < ups ? up : 1;
      }
      // What a layer computes must reach one row beyond what the next one reads. Even for `up` 2: see Work::read.
      for (int i = ups; i >= 0; i--) tail[i].lead = tail[i + 1].lead / tail[i + 1].up + 1;
      const int h = ups > 2 ? TILE : 3 * TILE;  // so that blocks of eight and sixteen times the size are not too large
      p.add(tail, H, W, h, columns_of(H, W, h, 1, pixel, threads));
    }
    return p;
  }
};

// The run of a picture through a network: each chain from top to bottom, one chain after the other.
struct RowPass {
  std::shared_ptr<const Weights> weights;
  Program p;
  int threads, height, strip;  // source rows: `height` in total; it can stop after multiples of `strip`
  Held block;
  size_t chain = 0;    // all chains before this one have ended
  int done = INT_MIN;  // strips of this chain that are done
  double ended = 0;    // multiplications that are done, in time slices

  RowPass(const Net& net, const View& source, int H, int W, int step, int most)
      : weights(net.weights(H / net.unshuffle, W / net.unshuffle)),
        p(net.program(H / net.unshuffle, W / net.unshuffle, step, std::max(1, most), weights.get())),
        height(H) {
    threads = std::clamp(most, 1, p.useful());
    p.picture.source = source;
    strip = p.chains.size() == 1 ? p.chains[0].h : H;
    static_cast<Block&>(block) = take(p.bytes(threads));
  }

  // Write results from now on to `result`, which is `rows` x `columns` of the whole from `top` and `left` on.
  void to(const View& result, int top, int left, int rows, int columns) {
    p.picture.result = result;
    p.picture.top = top;
    p.picture.left = left;
    p.picture.rows = rows;
    p.picture.columns = columns;
  }

  // Run until source row `bottom`, the end of a strip or of the picture.
  void advance(int bottom, int most) {
    std::vector<Strips> parts;
    do {
      add(parts, bottom == height ? INT_MAX : bottom / p.chains[chain].h - from());
    } while (chain < p.chains.size() && done == INT_MIN);
    run(std::move(parts), most);
  }

  // Run as many chains as take about `work` multiplications, at least one; or strips of the last one. Returns the share of
  // all work that is done, which is 1 only at the end.
  double slice(double work, int most) {
    std::vector<Strips> parts;
    while (chain < p.chains.size()) {
      const Chain& c = p.chains[chain];
      const bool last = chain + 1 == p.chains.size();
      const double strip = std::max(1., c.work() / (c.bottom - c.top));
      const int fit = int(std::min(work / strip, 1e9)), least = parts.empty() ? 1 : 0;
      const int strips = last ? std::max(fit, least) : fit >= c.bottom - c.top || least ? INT_MAX : 0;
      if (!strips) break;
      const double taken = strip * add(parts, strips);
      work -= taken;
      ended += taken;
      if (done > INT_MIN) break;
    }
    if (!parts.empty()) run(std::move(parts), most);
    if (chain == p.chains.size()) return 1;
    double all = 0;
    for (const Chain& c : p.chains) all += c.work();
    return std::min(ended / all, .999);
  }

 private:
  int from() const { return std::max(done, p.chains[chain].top); }

  // Add so many strips of the next chain, or all that are left. Returns how many.
  int add(std::vector<Strips>& parts, int strips) {
    const Chain& c = p.chains[chain];
    const int top = from(), bottom = c.bottom - top > strips ? top + strips : c.bottom;
    parts.push_back({&c, top, bottom, parts.empty() ? 0 : parts.back().first + parts.back().count()});
    if (bottom == c.bottom) chain++;
    done = bottom == c.bottom ? INT_MIN : bottom;
    return bottom - top;
  }

  void run(std::vector<Strips> parts, int most) {
    Run running(p, static_cast<float*>(block.data), threads, std::move(parts));
    const int wanted = std::clamp(most, 1, threads);
    std::vector<std::thread> others;
    others.reserve(wanted);
    for (int i = 1; i < wanted; i++) try {
        others.emplace_back([&, i] { running.work(i); });
      } catch (...) {
        break;  // the threads that were started do all the work
      }
    running.work(0);
    for (auto& thread : others) thread.join();
  }
};

}  // namespace

extern "C" {

// A network, to be closed by winograd_close; null when there is no memory. `tensors`: weight [out][in][3][3], bias and slopes (or
// null: no activation) of every convolution, in the order in which they run; they are not needed afterwards.
//   kind 0: one convolution, `channels` to `features`, of the source repeated `scale` times (1 or 2)
//   kind 1: SRVGGNetCompact of `blocks` + 2 convolutions, `scale` times as large
//   kind 2: RRDBNet, of a source unshuffled by `unshuffle`, with `ups` up-convolutions that each repeat samples `scale` times (2 or 3)
// `channels`: of the result, and of the source, to which `opaque` more are added that are 1 everywhere (0 or 1: alpha).
void* winograd_open(int kind, int channels, int opaque, int features, int growth, int blocks, int scale, int unshuffle, int ups,
                    const float* const* tensors) try {
  std::unique_ptr<Net> net(new Net{Kind(kind), features, growth, blocks, channels, opaque, unshuffle, 1, 1, ups, {}, {}, false, {}});
  const int first = (channels + opaque) * unshuffle * unshuffle;
  const auto add = [&](int in, int out, int first, int other) {
    const bool keep = kind != RRDB;  // RRDBNet's are too many: see Net::weights
    net->convs.push_back(std::make_unique<Conv>(tensors[0], tensors[1], tensors[2], in, out, first, other, keep));
    tensors += 3;
  };
  if (kind == CONV) {
    net->up = scale;
    add(channels, features, channels, 1);
  } else if (kind == SRVGG) {
    net->shuffle = scale;
    add(first, features, first, 1);
    for (int i = 0; i < blocks; i++) add(features, features, features, 1);
    add(features, channels * scale * scale, features, 1);
  } else {
    net->up = scale;
    add(first, features, first, 1);
    for (int i = 0; i < 3 * blocks; i++)
      for (int k = 0; k < 5; k++) add(features + k * growth, k < 4 ? growth : features, features, growth);
    for (int i = 0; i < ups + 2; i++) add(features, features, features, 1);
    add(features, channels, features, 1);
  }
  return net.release();
} catch (...) {
  return nullptr;
}

void winograd_close(void* net) { delete static_cast<Net*>(net); }

// Bytes of the weights, without those that are kept for small pictures.
size_t winograd_weights(const void* net) {
  size_t bytes = 0;
  for (const auto& conv : static_cast<const Net*>(net)->convs) bytes += conv->memory.size;
  return bytes;
}

// Begins the run of a picture of H x W, to be continued by winograd_rows and closed by winograd_end; null when there is no
// memory, or when its sides are not multiples of what the network unshuffles. `step`: source rows, a multiple of 6, after
// multiples of which it must be able to stop; 0: only at the end. Network and source must exist until winograd_end.
void* winograd_begin(const void* net, const View* source, int H, int W, int step, int threads) try {
  const Net& n = *static_cast<const Net*>(net);
  if (H < 1 || W < 1 || H % n.unshuffle || W % n.unshuffle) return nullptr;
  std::unique_ptr<RowPass> pass(new RowPass(n, *source, H, W, step, threads));
  return pass->block.data ? pass.release() : nullptr;
} catch (...) {
  return nullptr;
}

// Source rows after multiples of which winograd_rows can stop: a divisor of the step, if there is one.
int winograd_strip(const void* pass) { return static_cast<const RowPass*>(pass)->strip; }

// Runs until source row `bottom`. Of the result, `rows` x `columns` from `top` and `left` on are written. Returns 0, or 1 when
// there is no memory. Several row passes may run at the same time.
int winograd_rows(void* pass, int bottom, const View* result, int top, int left, int rows, int columns,
                  int threads) try {
  RowPass& s = *static_cast<RowPass*>(pass);
  s.to(*result, top, left, rows, columns);
  s.advance(bottom, threads);
  return 0;
} catch (...) {
  return 1;
}

// Runs for about `work` multiplications. Returns the share of all work that is done, 1 at the end; -1 when there is no memory.
double winograd_slice(void* pass, double work, const View* result, int top, int left, int rows, int columns,
                  int threads) try {
  RowPass& s = *static_cast<RowPass*>(pass);
  s.to(*result, top, left, rows, columns);
  return s.slice(work, threads);
} catch (...) {
  return -1;
}

void winograd_end(void* pass) { delete static_cast<RowPass*>(pass); }

// Frees the memory that is kept for the next run.
void winograd_release() {
  Block none[2];
  {
    const std::lock_guard<std::mutex> guard(idle_lock);
    std::swap(idle, none);
  }
  for (const Block& b : none)
    if (b.data) munmap(b.data, b.size);
}

// Bytes of memory for the run of a picture, without the picture and its result.
size_t winograd_bytes(const void* net, int H, int W, int threads) try {
  const Net& n = *static_cast<const Net*>(net);
  const Program p = n.program(H / n.unshuffle, W / n.unshuffle, 0, std::max(1, threads));
  return p.bytes(std::clamp(threads, 1, p.useful()));
} catch (...) {
  return 0;
}

}
