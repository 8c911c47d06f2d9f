// 3x3 convolutions in fp32 by Winograd's F(4x4, 3x3), and the two networks that are made of nothing else.
//
// A convolution is cut into tiles of 4x4 results. The 6x6 samples under each are transformed to 36 numbers per channel,
// these are multiplied by the 36 transformed weights (36 small matrix products, where the plain way needs 144), and the
// products are transformed back. T tiles at a time go through all of it in scratch memory that stays in the L2 cache;
// bias, activation and residuals are applied on the way out. After Lavin and Gray, arXiv:1509.09308.
//
// A network is a list of stages: some rows of one convolution's result. Threads take pieces of stages in order, and each
// stage names the one that must have ended, with all before it, before its pieces may begin. Every piece computes the
// same whichever thread takes it, so results do not depend on the number of threads.
//
// Pictures come and go as they lie in memory, 8 bits, 16 bits or floats, and only the part of a result that is wanted is
// written. Maps of features are NHWC, channels padded with zeros to 16s. No global state but the idle arenas. Nothing
// throws.

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8;
#else
#error "needs AVX-512, or AVX2 and FMA"
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4)));

ALWAYS_INLINE Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
ALWAYS_INLINE void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
ALWAYS_INLINE Vec all(float x) { return x - Vec{}; }

constexpr int T = 24;          // tiles per piece: a multiple of every R below
constexpr size_t SKEW = 16;    // floats between positions, or they would all fall into the same sets of the L1 cache
constexpr size_t PAGE = size_t{2} << 20;

int padded(int channels) { return (channels + 15) / 16 * 16; }

// ---- transforms; the compiler contracts a * b + c to FMA ----

ALWAYS_INLINE void transform_in(const Vec d[6], Vec o[6]) {
  const Vec a = d[4] - 4.f * d[2], b = d[3] - 4.f * d[1], c = d[4] - d[2], e = 2.f * (d[3] - d[1]);
  o[0] = 4.f * d[0] + (d[4] - 5.f * d[2]);
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = 4.f * d[1] + (d[5] - 5.f * d[3]);
}

ALWAYS_INLINE void transform_out(const Vec m[6], Vec o[4]) {
  const Vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  o[0] = m[0] + (a + c);
  o[1] = 2.f * e + b;
  o[2] = 4.f * c + a;
  o[3] = (8.f * e + b) + m[5];
}

// R rows of A (lda floats apart) times K x N vectors of B, into C.
template <int R, int N>
ALWAYS_INLINE void multiply(const float* A, size_t lda, const float* B, size_t ldb, float* C, size_t ldc, int K) {
  Vec c[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) c[r][n] = Vec{};
  for (int k = 0; k < K; k++) {
    Vec b[N];
    for (int n = 0; n < N; n++) b[n] = load(B + k * ldb + n * LANES);
    for (int r = 0; r < R; r++) {
      const Vec a = all(A[r * lda + k]);
      for (int n = 0; n < N; n++) c[r][n] += a * b[n];
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) store(C + r * ldc + n * LANES, c[r][n]);
}

template <int R, int N>
void multiply_rows(int rows, const float* A, size_t lda, const float* B, size_t ldb, float* C, size_t ldc, int K) {
  for (int r = 0; r < rows; r += R) multiply<R, N>(A + r * lda, lda, B, ldb, C + r * ldc, ldc, K);
}

// ---- weights ----

struct Conv {
  int K, KP;  // channels in: up to the last that is used, and padded
  int N, NP;  // channels out
  bool active = false;
  std::vector<float> store;
  float *U, *bias, *slope;  // U: [36][K][NP]

  // w: [out][in][3][3]. The channels that come in lie in segments, each padded to 16s: the first has `first` channels,
  // all others `other`.
  Conv(const float* w, const float* b, const float* s, int in, int out, int first, int other) : N(out), NP(padded(out)) {
    std::vector<int> place(in);
    for (int i = 0; i < in; i++) {
      const int j = i < first ? 0 : 1 + (i - first) / other;
      place[i] = i < first ? i : padded(first) + (j - 1) * padded(other) + (i - first) % other;
    }
    K = place[in - 1] + 1;
    KP = padded(K);
    const size_t size = size_t{36} * K * NP;
    store.assign(size + 2 * NP + 16, 0.f);
    U = store.data() + (16 - reinterpret_cast<size_t>(store.data()) / 4 % 16) % 16;
    bias = U + size;
    slope = bias + NP;
    active = s != nullptr;
    std::copy(b, b + out, bias);
    if (s) std::copy(s, s + out, slope);
    constexpr double G[6][3] = {{1. / 4, 0, 0},           {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                                {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
    for (int o = 0; o < out; o++)
      for (int i = 0; i < in; i++) {
        const float* g = w + (size_t{1} * o * in + i) * 9;
        double half[6][3];
        for (int y = 0; y < 6; y++)
          for (int x = 0; x < 3; x++) half[y][x] = G[y][0] * g[x] + G[y][1] * g[3 + x] + G[y][2] * g[6 + x];
        for (int y = 0; y < 6; y++)
          for (int x = 0; x < 6; x++)
            U[(size_t(y * 6 + x) * K + place[i]) * NP + o] =
                float(half[y][0] * G[x][0] + half[y][1] * G[x][1] + half[y][2] * G[x][2]);
      }
  }
};

// ---- maps of features, and stages of work ----

struct Map {
  float* base = nullptr;
  size_t start = 0;           // of its first float in the run's memory
  size_t pixel = 0, row = 0;  // floats from one to the next
  int ring = 1;               // rows there are: row y lies where y % ring did
  float* at(int y) const { return base + size_t(y % ring) * row; }
};

struct Stage {
  const Conv* conv = nullptr;  // null: packs the source picture
  Map in, more;                // channels of `more` follow those of `in`
  int split = 1 << 30;         // channels in `in`
  int up = 1;                  // 2: every sample of the input stands for 2x2
  Map out;                     // without base: to the result picture
  Map add[2];
  float scale[2] = {1, 1};     // result = (result * scale + add), in turn
  int H = 0, W = 0;            // of the convolution's result, in pixels
  int top = 0, bottom = 0;     // rows of it, multiples of 4 but for the last
  int wait = -1;               // this stage and all before it must have ended
  long first = 0;              // number of its first piece
  int pieces = 0;
};

// Samples in memory; steps from one to the next are in samples. Integers stand for 0 to 1.
struct View {
  void* data;
  int type;  // 0: 8 bits, 1: 16 bits, 2: floats
  int channels;
  long row, pixel, channel;
};

// The source is unshuffled by `unshuffle`, the result shuffled by `shuffle` on top of the repeated source if `base`. One
// channel of a source is taken for all, and all go into their mean where the result has one.
struct Picture {
  View source{}, result{};
  int top = 0, left = 0, rows = 0, columns = 0;  // of the result: what its view holds
  int channels = 3, out_channels = 3;            // of the network
  int unshuffle = 1, shuffle = 1;
  bool base = false;
};

template <class Sample>
constexpr float range() {
  return sizeof(Sample) == 1 ? 255.f : sizeof(Sample) == 2 ? 65535.f : 1.f;
}

template <class Sample>
ALWAYS_INLINE float read(const View& v, long y, long x, int c) {
  const Sample* data = static_cast<const Sample*>(v.data);
  return float(data[y * v.row + x * v.pixel + (v.channels == 1 ? 0 : c) * v.channel]) / range<Sample>();
}

template <class Sample>
ALWAYS_INLINE Sample rounded(float x) {
  const float scaled = x * range<Sample>();
  return Sample(scaled > 0 ? std::lrint(std::min(scaled, range<Sample>())) : 0);
}
template <>
ALWAYS_INLINE float rounded<float>(float x) {
  return x;
}

// f(Sample{}) for a view's kind of samples.
template <class F>
ALWAYS_INLINE void of_type(int type, F f) {
  if (type == 0) f(uint8_t{});
  else if (type == 1) f(uint16_t{});
  else f(float{});
}

void pack(const Stage& s, const Picture& p) {
  const int u = p.unshuffle, wide = int(s.out.pixel);
  of_type(p.source.type, [&](auto sample) {
    for (int y = s.top; y < s.bottom; y++) {
      float* to = s.out.at(y);
      std::memset(to, 0, size_t(s.W) * wide * sizeof(float));
      for (int c = 0; c < p.channels; c++)
        for (int dy = 0; dy < u; dy++)
          for (int dx = 0; dx < u; dx++) {
            float* at = to + (c * u + dy) * u + dx;
            for (long x = 0; x < s.W; x++)
              at[x * wide] = read<decltype(sample)>(p.source, long(y) * u + dy, x * u + dx, c);
          }
    }
  });
}

// 6x6 samples of LANES channels, given by `sample(y, x)`, to 36 places `step` apart.
template <class Sample>
ALWAYS_INLINE void gather(Sample sample, float* V, size_t step) {
  Vec d[6][6];
#pragma GCC unroll 6
  for (int x = 0; x < 6; x++) {
    Vec column[6], o[6];
#pragma GCC unroll 6
    for (int y = 0; y < 6; y++) column[y] = sample(y, x);
    transform_in(column, o);
#pragma GCC unroll 6
    for (int y = 0; y < 6; y++) d[y][x] = o[y];
  }
#pragma GCC unroll 6
  for (int y = 0; y < 6; y++) {
    Vec o[6];
    transform_in(d[y], o);
#pragma GCC unroll 6
    for (int x = 0; x < 6; x++) store(V + size_t(y * 6 + x) * step, o[x]);
  }
}

void read_tile(const Stage& s, int ty, int tx, float* V, size_t step) {
  const int y0 = ty * 4 - 1, x0 = tx * 4 - 1, KP = s.conv->KP;
  const bool inside = y0 >= 0 && x0 >= 0 && y0 + 6 <= s.H && x0 + 6 <= s.W;
  int columns[6];
  for (int x = 0; x < 6; x++) columns[x] = x0 + x < 0 || x0 + x >= s.W ? -1 : (x0 + x) / s.up;
  for (int part = 0; part < 2; part++) {
    const Map& map = part ? s.more : s.in;
    const int begin = part ? s.split : 0, end = part ? KP : std::min(KP, s.split);
    if (begin >= end) break;
    const float* rows[6];
    for (int y = 0; y < 6; y++) {
      const int yy = y0 + y;
      rows[y] = yy < 0 || yy >= s.H ? nullptr : map.at(yy / s.up) + (inside ? size_t(columns[0]) * map.pixel : 0);
    }
    const size_t pixel = map.pixel;
    float* to = V + begin;
    for (int c = 0; c < end - begin; c += LANES, to += LANES) {
      if (!inside) {
        const auto sample = [&](int y, int x) {
          return rows[y] && columns[x] >= 0 ? load(rows[y] + size_t(columns[x]) * pixel + c) : Vec{};
        };
        gather(sample, to, step);
      } else if (s.up == 1) {
        // The next tile's new columns: hardware does not see this pattern.
        for (int y = 0; y < 6; y++)
          for (int x = 6; x < 10; x++) __builtin_prefetch(rows[y] + size_t(x) * pixel + c);
        gather([&](int y, int x) { return load(rows[y] + size_t(x) * pixel + c); }, to, step);
      } else {
        gather([&](int y, int x) { return load(rows[y] + size_t((x + 1) / 2) * pixel + c); }, to, step);
      }
    }
  }
}

void multiply_all(const Conv& conv, int tiles, const float* V, size_t vstep, float* M, size_t mstep, bool upsampled) {
  const int NP = conv.NP;
  for (int p = 0; p < 36; p++) {
    // Of repeated samples the third row and column of a transformed tile are exactly zero.
    if (upsampled && (p / 6 == 2 || p % 6 == 2)) continue;
    const float *A = V + p * vstep, *B = conv.U + size_t(p) * conv.K * NP;
    float* C = M + p * mstep;
    int n = 0;
    while (n < NP) {
      const int left = (NP - n) / LANES;
#if defined(__AVX512F__)
      const int width = std::min(left, 4);
      if (width == 4) multiply_rows<6, 4>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else if (width == 3) multiply_rows<8, 3>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else if (width == 2) multiply_rows<12, 2>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else multiply_rows<24, 1>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
#else
      const int width = std::min(left, 2);
      multiply_rows<6, 2>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
#endif
      n += width * LANES;
    }
  }
}

// One tile's 4x4 results, [16][NP], to the picture.
template <int SHUFFLE, class Sample>
void write_samples(const Picture& p, float* tile, int NP, int y0, int x0, int H, int W) {
  const int r = SHUFFLE ? SHUFFLE : p.shuffle, rows = std::min(4, H - y0), columns = std::min(4, W - x0);
  const int left = x0 * r - p.left, begin = std::max(0, -left), end = std::min(columns * r, p.columns - left);
  const bool mean = p.result.channels == 1 && p.out_channels > 1;
  Sample* result = static_cast<Sample*>(p.result.data);
  for (int c = 0; c < p.out_channels; c++) {
    float base[4][4] = {};
    if (p.base)
      of_type(p.source.type, [&](auto sample) {
        for (int y = 0; y < rows; y++)
          for (int x = 0; x < columns; x++) base[y][x] = read<decltype(sample)>(p.source, y0 + y, x0 + x, c);
      });
    for (int y = 0; y < rows; y++)
      for (int dy = 0; dy < r; dy++) {
        const int row = (y0 + y) * r + dy - p.top;
        if (row < 0 || row >= p.rows) continue;
        float* from = tile + y * 4 * NP + dy * r;
        Sample* to = result + row * p.result.row + c * p.result.channel;
        for (int i = begin; i < end; i++) {
          float value = from[i / r * NP + c * r * r + i % r] + base[y][i / r];
          if (mean) {  // summed in place of the first channel
            float& sum = from[i / r * NP + i % r];
            sum = value = c ? sum + value : value;
            if (c + 1 < p.out_channels) continue;
            to = result + row * p.result.row;
            value /= float(p.out_channels);
          }
          to[(left + i) * p.result.pixel] = rounded<Sample>(value);
        }
      }
  }
}

// WHOLE: none of the 4x4 results lies beyond the picture, so that loops can be unrolled.
template <bool WHOLE, bool UPSAMPLED>
ALWAYS_INLINE void scatter(const Stage& s, int y0, int x0, const float* M, size_t step, float* tile) {
  const int NP = s.conv->NP, rows = std::min(4, s.H - y0), columns = std::min(4, s.W - x0);
  const bool active = s.conv->active;
  float *to[4], *from[2][4];
  for (int y = 0; y < 4; y++) {
    const bool there = WHOLE || y < rows;
    to[y] = s.out.base && there ? s.out.at(y0 + y) + size_t(x0) * s.out.pixel : tile + y * 4 * NP;
    for (int i = 0; i < 2; i++)
      from[i][y] = s.add[i].base && there ? s.add[i].at(y0 + y) + size_t(x0) * s.add[i].pixel : nullptr;
  }
  const size_t pixel = s.out.base ? s.out.pixel : NP;
  for (int c = 0; c < NP; c += LANES) {
    Vec d[4][6];
#pragma GCC unroll 6
    for (int x = 0; x < 6; x++) {
      Vec column[6], o[4];
#pragma GCC unroll 6
      for (int y = 0; y < 6; y++)
        column[y] = UPSAMPLED && (y == 2 || x == 2) ? Vec{} : load(M + size_t(y * 6 + x) * step + c);
      transform_out(column, o);
#pragma GCC unroll 4
      for (int y = 0; y < 4; y++) d[y][x] = o[y];
    }
    const Vec bias = load(s.conv->bias + c), slope = load(s.conv->slope + c);
#pragma GCC unroll 4
    for (int y = 0; y < 4; y++) {
      if (!WHOLE && y >= rows) break;
      Vec o[4];
      transform_out(d[y], o);
#pragma GCC unroll 4
      for (int x = 0; x < 4; x++) {
        o[x] += bias;
        if (active) o[x] = o[x] > 0.f ? o[x] : o[x] * slope;
      }
      for (int i = 0; i < 2; i++)
        if (from[i][y]) {
#pragma GCC unroll 4
          for (int x = 0; x < 4; x++)
            if (WHOLE || x < columns) o[x] = o[x] * s.scale[i] + load(from[i][y] + size_t(x) * s.add[i].pixel + c);
        }
#pragma GCC unroll 4
      for (int x = 0; x < 4; x++)
        if (WHOLE || x < columns) store(to[y] + size_t(x) * pixel + c, o[x]);
    }
  }
}

void write_tile(const Stage& s, const Picture& picture, int ty, int tx, const float* M, size_t step, float* tile) {
  const int y0 = ty * 4, x0 = tx * 4;
  if (s.up == 2) scatter<false, true>(s, y0, x0, M, step, tile);
  else if (y0 + 4 <= s.H && x0 + 4 <= s.W) scatter<true, false>(s, y0, x0, M, step, tile);
  else scatter<false, false>(s, y0, x0, M, step, tile);
  if (s.out.base) return;
  of_type(picture.result.type, [&](auto sample) {
    const auto write = picture.shuffle == 4 ? write_samples<4, decltype(sample)> : write_samples<0, decltype(sample)>;
    write(picture, tile, s.conv->NP, y0, x0, s.H, s.W);
  });
}

// ---- running ----

struct Program {
  std::vector<Stage> stages;
  size_t floats = 0;            // of maps
  float* memory = nullptr;      // where they lie
  int widest_in = 0, widest_out = 0;
  Picture picture;

  Map map(int channels, int W, int ring) {
    Map m;
    m.pixel = channels;
    m.row = size_t(W) * channels + 10 * SKEW;  // never a power of two: rows would share sets of the caches
    m.ring = ring;
    m.start = floats;
    floats += m.row * ring + SKEW * 64;  // the prefetches reach beyond the end
    floats = (floats + 15) / 16 * 16;
    return m;
  }

  int add(Stage s) {
    const long tiles = long(s.bottom - s.top + 3) / 4 * ((s.W + 3) / 4);
    s.pieces = s.conv ? int((tiles + T - 1) / T) : 1;
    s.first = stages.empty() ? 0 : stages.back().first + stages.back().pieces;
    if (s.conv) {
      widest_in = std::max(widest_in, s.conv->KP);
      widest_out = std::max(widest_out, s.conv->NP);
    }
    for (Map* m : {&s.in, &s.more, &s.out, &s.add[0], &s.add[1]})
      if (m->pixel) m->base = memory + m->start;
    stages.push_back(s);
    return int(stages.size()) - 1;
  }

  size_t scratch() const { return 36 * (T * size_t(widest_in + widest_out) + 2 * SKEW) + 16 * size_t(widest_out) + 64; }
};

void run_piece(const Stage& s, const Picture& picture, int piece, float* scratch) {
  if (!s.conv) return pack(s, picture);
  const int wide = (s.W + 3) / 4;
  const long tiles = long(s.bottom - s.top + 3) / 4 * wide, start = long(piece) * T;
  const int n = int(std::min<long>(T, tiles - start));
  const size_t vstep = size_t(T) * s.conv->KP + SKEW, mstep = size_t(T) * s.conv->NP + SKEW;
  float *V = scratch, *M = V + 36 * vstep, *tile = M + 36 * mstep;
  for (int t = 0; t < n; t++)
    read_tile(s, s.top / 4 + int((start + t) / wide), int((start + t) % wide), V + size_t(t) * s.conv->KP, vstep);
  multiply_all(*s.conv, n, V, vstep, M, mstep, s.up == 2);
  for (int t = 0; t < n; t++)
    write_tile(s, picture, s.top / 4 + int((start + t) / wide), int((start + t) % wide), M + size_t(t) * s.conv->NP,
               mstep, tile);
}

struct Run {
  const Program& program;
  std::atomic<long> next{0};
  std::unique_ptr<std::atomic<int>[]> left;  // pieces of each stage that have not ended

  explicit Run(const Program& p) : program(p), left(new std::atomic<int>[p.stages.size()]) {
    for (size_t i = 0; i < p.stages.size(); i++) left[i] = p.stages[i].pieces;
  }

  void work(float* scratch) {
    const auto& stages = program.stages;
    size_t i = 0;
    int ended = 0;  // stages before this one have all ended
    for (;;) {
      const long piece = next.fetch_add(1, std::memory_order_relaxed);
      while (i < stages.size() && piece >= stages[i].first + stages[i].pieces) i++;
      if (i == stages.size()) return;
      for (int spins = 0; ended <= stages[i].wait;) {
        if (left[ended].load(std::memory_order_acquire) == 0) ended++;
        else if (++spins > 2000) sched_yield();
        else __builtin_ia32_pause();
      }
      run_piece(stages[i], program.picture, int(piece - stages[i].first), scratch);
      left[i].fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

// ---- memory: one block for a run; small ones are kept for the next ----

constexpr size_t KEPT = size_t{64} << 20;  // what is larger takes long enough to fill that asking again costs nothing

struct Block {
  void* data = nullptr;
  size_t size = 0;
};

std::mutex idle_lock;
Block idle[2];

Block take(size_t size) {
  size = (size + PAGE - 1) / PAGE * PAGE;
  {
    const std::lock_guard<std::mutex> guard(idle_lock);
    Block* best = nullptr;
    for (Block& b : idle)
      if (b.data && b.size >= size && (!best || b.size < best->size)) best = &b;
    if (best) {
      const Block found = *best;
      *best = Block{};
      return found;
    }
  }
  // Large pages must begin at multiples of their size: ask for more, give back both ends.
  void* data = mmap(nullptr, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return Block{};
  char *begin = static_cast<char*>(data), *start = begin + (PAGE - reinterpret_cast<size_t>(data) % PAGE) % PAGE;
  if (start > begin) munmap(begin, start - begin);
  munmap(start + size, begin + PAGE - start);
  madvise(start, size, MADV_HUGEPAGE);  // where it is refused, small pages do
  return Block{start, size};
}

void give(Block block) {
  if (block.size <= KEPT) {
    const std::lock_guard<std::mutex> guard(idle_lock);
    Block* smallest = &idle[0];
    for (Block& b : idle)
      if (b.size < smallest->size) smallest = &b;
    if (block.size > smallest->size) std::swap(*smallest, block);
  }
  if (block.data) munmap(block.data, block.size);
}

// ---- networks ----

// Layers one after the other, strip by strip: layer l does strip s in step 2s + 3l. The strips s - 1, s and s + 1 of the
// layer before it are done by then, and of its own, strip s - 2 has been read: all but the last row of it is no longer
// wanted. So a ring holds two strips and a row. Half of the layers have work in each step, and none of it waits for more
// than the step before.
struct Chain {
  std::vector<Stage> layers;
  std::vector<int> height;  // rows of a strip of each layer
  int before = -1;          // the first stages wait for it
  int strips = 0, step = 0;

  Chain() = default;
  Chain(std::vector<Stage> l, std::vector<int> h, int b) : layers(std::move(l)), height(std::move(h)), before(b) {
    strips = (layers[0].H + height[0] - 1) / height[0];
  }

  // What is needed, beyond what was added before and has ended, for all strips of the result up to `last`.
  void advance(Program& p, int last) {
    const int count = int(layers.size());
    std::vector<std::array<int, 4>> id(count, {-1, -1, -1, -1});
    for (; step <= 2 * last + 3 * (count - 1); step++)
      for (int l = 0; l < count; l++) {
        const int s = (step - 3 * l) / 2;
        if (step < 3 * l || (step - 3 * l) % 2 || s >= strips) continue;
        Stage stage = layers[l];
        stage.top = s * height[l];
        stage.bottom = std::min(stage.H, stage.top + height[l]);
        stage.wait = before;
        if (l > 0) stage.wait = std::max(stage.wait, id[l - 1][std::min(s + 1, strips - 1) % 4]);
        if (l + 1 < count && s >= 2) stage.wait = std::max(stage.wait, id[l + 1][(s - 2) % 4]);
        id[l][s % 4] = p.add(stage);
      }
  }
};

int ring(int strip) { return 2 * strip + 1; }

enum Kind { CONV, SRVGG, RRDB };

struct Net {
  Kind kind;
  int features, growth, blocks, channels, unshuffle, shuffle, up;
  std::vector<std::unique_ptr<Conv>> convs;

  // Stages that run through, then a chain. Maps get their places, from `memory` on, and how much they take is told.
  // `step`: rows of which strips shall be even parts, so that it can stop there; 0: it need not.
  Chain program(Program& p, int H, int W, int step) const;
};

int bands_of(int H, int W) {  // enough pieces in each that threads rarely wait, few enough bands to walk
  const long tiles = long((H + 3) / 4) * ((W + 3) / 4);
  return int(std::max<long>(1, std::min<long>((H + 3) / 4, tiles / (8 * T))));
}

// A whole layer, band by band. A piece reads one row beyond its band, so it needs the band after it of the layer before;
// what it overwrites, others have stopped reading by then.
int layer(Program& p, Stage s, int before, int bands_before) {
  const int bands = bands_of(s.H, s.W), rows = (s.H + 3) / 4;
  const int start = int(p.stages.size());
  for (int b = 0; b < bands; b++) {
    s.top = int(long(rows) * b / bands) * 4;
    s.bottom = std::min(s.H, int(long(rows) * (b + 1) / bands) * 4);
    s.wait = before + (bands == bands_before ? std::min(b + 1, bands - 1) : bands_before - 1);
    p.add(s);
  }
  return start;
}

Chain Net::program(Program& p, int H, int W, int step) const {
  p.picture.channels = channels;
  p.picture.unshuffle = unshuffle;
  p.picture.shuffle = shuffle;
  Stage source;
  source.H = H;
  source.W = W;
  const int packed = padded(channels * unshuffle * unshuffle);
  if (kind == CONV) {
    Stage conv;
    conv.conv = convs[0].get();
    conv.in = source.out = p.map(packed, W, H);
    conv.up = up;
    conv.H = H * up;
    conv.W = W * up;
    p.picture.out_channels = conv.conv->N;
    const int start = layer(p, source, -1, 0);
    layer(p, conv, start, int(p.stages.size()) - start);
    for (Stage& s : p.stages)  // whole bands of the source: upsampled ones need others
      if (s.conv) s.wait = start + bands_of(H, W) - 1;
  } else if (kind == SRVGG) {
    p.picture.base = true;
    p.picture.out_channels = channels;
    const int count = int(convs.size());
    int strip = 4 * std::max(1, 96 / ((W + 3) / 4));
    while (step % strip && strip > 4) strip -= 4;
    // A ring for every layer, or two whole maps, which of small pictures stay in the cache: a tenth faster.
    const bool rings = step || long(count) * 4 * strip < 2L * H;
    std::vector<Stage> layers{source};
    layers[0].out = p.map(packed, W, rings ? ring(strip) : H);
    Map two[2];
    if (!rings)
      for (Map& m : two) m = p.map(padded(features), W, H);
    for (int i = 0; i < count; i++) {
      Stage s;
      s.conv = convs[i].get();
      s.H = H;
      s.W = W;
      s.in = layers.back().out;
      if (i + 1 < count) s.out = rings ? p.map(padded(features), W, ring(strip)) : two[i % 2];
      layers.push_back(s);
    }
    if (rings) return Chain(layers, std::vector<int>(layers.size(), strip), -1);
    int before = -1;
    for (size_t i = 0; i < layers.size(); i++) before = layer(p, layers[i], before, i ? bands_of(H, W) : 0);
  } else {
    const int F = padded(features), G = padded(growth), bands = bands_of(H, W);
    p.picture.shuffle = 1;
    source.out = p.map(packed, W, H);
    const Map trunk = p.map(F, W, H), grown = p.map(4 * G, W, H);
    const Map x[3] = {p.map(F, W, H), p.map(F, W, H), p.map(F, W, H)};
    int before = layer(p, source, -1, 0), c = 0;
    const auto conv = [&](const Map& in, const Map& out) {
      Stage s;
      s.conv = convs[c++].get();
      s.H = H;
      s.W = W;
      s.in = in;
      s.out = out;
      return s;
    };
    const Stage first = conv(source.out, trunk);
    before = layer(p, first, before, bands);
    for (int block = 0; block < blocks; block++)
      for (int j = 0; j < 3; j++) {
        const Map in = block == 0 && j == 0 ? trunk : x[j];
        for (int k = 0; k < 5; k++) {
          Map part = grown;
          part.start += k * G;
          Stage s = conv(in, k < 4 ? part : x[(j + 1) % 3]);
          s.more = grown;
          s.split = F;
          if (k == 4) {
            s.add[0] = in;
            s.scale[0] = .2f;
            if (j == 2) {  // the end of the three: the input of the first is added, in its place
              s.add[1] = block == 0 ? trunk : x[0];
              s.scale[1] = .2f;
            }
          }
          before = layer(p, s, before, bands);
        }
      }
    Stage body = conv(blocks ? x[0] : trunk, x[1]);
    body.add[0] = trunk;
    layer(p, body, before, bands);
    // The results at twice and four times the size are never whole: 16 and 64 times the channels' bytes.
    const int done = int(p.stages.size()) - 1;
    const int strip = 4 * std::max(1, 96 / ((2 * W + 3) / 4));
    std::vector<Stage> tail;
    Map in = x[1];
    const std::vector<int> height{strip, 2 * strip, 2 * strip, 2 * strip};
    for (int i = 0; i < 4; i++) {
      Stage s = conv(in, Map{});
      s.up = i < 2 ? 2 : 1;
      s.H = H * (i ? 4 : 2);
      s.W = W * (i ? 4 : 2);
      if (i < 3) s.out = p.map(F, s.W, ring(height[i]));
      tail.push_back(s);
      in = s.out;
    }
    return Chain(tail, height, done);
  }
  return Chain();
}

// The memory that a picture needs can be read from it: it has all maps, and a stage of each kind.
Program sized(const Net& net, int h, int w, int step) {
  Program p;
  Chain chain = net.program(p, h, w, step);
  if (chain.strips) chain.advance(p, 0);
  return p;
}

size_t pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

struct Held : Block {
  Held() = default;
  Held(const Held&) = delete;
  ~Held() {
    if (data) give(*this);
  }
};

// A picture on its way through a network, from top to bottom.
struct Sweep {
  Program p;
  Chain chain;
  Held block;
  int threads, height, strip;  // rows of the source: all of them, and those after which it can stop
  size_t scratch;              // bytes of each thread

  Sweep(const Net& net, const View& source, int H, int W, int step, int t) : threads(std::max(1, t)), height(H), strip(H) {
    const int h = H / net.unshuffle, w = W / net.unshuffle;
    // Twice, because stages want to know where their maps lie, and that takes to know how large they are.
    const Program size = sized(net, h, w, step);
    scratch = pages(size.scratch() * sizeof(float)) + 256;
    static_cast<Block&>(block) = take(pages(size.floats * sizeof(float)) + 4096 + scratch * threads);
    if (!block.data) return;
    p.memory = static_cast<float*>(block.data);
    chain = net.program(p, h, w, step);
    p.picture.source = source;
    if (net.kind == SRVGG && chain.strips) strip = chain.height.back();
  }

  // The result's rows down to source row `bottom`, which ends a strip or the picture, to `result`.
  void advance(int bottom, const View& result, int top, int left, int rows, int columns, int most) {
    p.picture.result = result;
    p.picture.top = top;
    p.picture.left = left;
    p.picture.rows = rows;
    p.picture.columns = columns;
    if (chain.strips) chain.advance(p, bottom == height ? chain.strips - 1 : bottom / strip - 1);
    if (p.stages.empty()) return;
    const long pieces = p.stages.back().first + p.stages.back().pieces;
    const int wanted = int(std::max<long>(1, std::min<long>(std::min(threads, most), pieces)));
    char* own = static_cast<char*>(block.data) + pages(p.floats * sizeof(float));
    Run running(p);
    std::vector<std::thread> others;
    others.reserve(wanted);
    for (int i = 1; i < wanted; i++) try {
        others.emplace_back([&, i] { running.work(reinterpret_cast<float*>(own + i * scratch)); });
      } catch (...) {
        break;  // the threads that there are do it all
      }
    running.work(reinterpret_cast<float*>(own));
    for (auto& thread : others) thread.join();
    p.stages.clear();
  }
};

}  // namespace

extern "C" {

// A network, to be closed by winograd_close; null without memory. `tensors`: weight [out][in][3][3], bias and slopes (or
// null: no activation) of every convolution, in the order in which they run; they are not needed afterwards.
//   kind 0: one convolution, `channels` to `features`, of the source repeated `scale` times (1 or 2)
//   kind 1: SRVGGNetCompact of `blocks` + 2 convolutions, `scale` times as large
//   kind 2: RRDBNet, of a source unshuffled by 4 / `scale`
void* winograd_open(int kind, int channels, int features, int growth, int blocks, int scale,
                    const float* const* tensors) try {
  std::unique_ptr<Net> net(new Net{Kind(kind), features, growth, blocks, channels, 1, 1, 1, {}});
  const auto add = [&](int in, int out, int first, int other) {
    net->convs.emplace_back(new Conv(tensors[0], tensors[1], tensors[2], in, out, first, other));
    tensors += 3;
  };
  if (kind == CONV) {
    net->up = scale;
    add(channels, features, channels, 1);
  } else if (kind == SRVGG) {
    net->shuffle = scale;
    add(channels, features, channels, 1);
    for (int i = 0; i < blocks; i++) add(features, features, features, 1);
    add(features, channels * scale * scale, features, 1);
  } else {
    net->unshuffle = 4 / scale;
    const int first = channels * net->unshuffle * net->unshuffle;
    add(first, features, first, 1);
    for (int i = 0; i < 3 * blocks; i++)
      for (int k = 0; k < 5; k++) add(features + k * growth, k < 4 ? growth : features, features, growth);
    for (int i = 0; i < 4; i++) add(features, features, features, 1);
    add(features, channels, features, 1);
  }
  return net.release();
} catch (...) {
  return nullptr;
}

void winograd_close(void* net) { delete static_cast<Net*>(net); }

// A picture of H x W to be taken through a network by winograd_rows, and closed by winograd_end; null without memory, or
// when its sides are no multiples of what the network unshuffles. `step`: source rows, a multiple of 4, after multiples of
// which it shall be able to stop; 0: only at the end. Neither network nor source may go before it.
void* winograd_begin(const void* net, const View* source, int H, int W, int step, int threads) try {
  const Net& n = *static_cast<const Net*>(net);
  if (H % n.unshuffle || W % n.unshuffle) return nullptr;
  std::unique_ptr<Sweep> sweep(new Sweep(n, *source, H, W, step, threads));
  return sweep->block.data ? sweep.release() : nullptr;
} catch (...) {
  return nullptr;
}

// Source rows after multiples of which winograd_rows can stop: a part of the step, if there is one.
int winograd_strip(const void* sweep) { return static_cast<const Sweep*>(sweep)->strip; }

// Goes on until `bottom`, in source rows. Of what comes out, the result's `rows` x `columns` from `top` and `left` on are
// written. 0, or 1 without memory. Several sweeps may run at once.
int winograd_rows(void* sweep, int bottom, const View* result, int top, int left, int rows, int columns,
                  int threads) try {
  static_cast<Sweep*>(sweep)->advance(bottom, *result, top, left, rows, columns, threads);
  return 0;
} catch (...) {
  return 1;
}

void winograd_end(void* sweep) { delete static_cast<Sweep*>(sweep); }

// Bytes of memory that a picture takes on its way, beside itself and its result.
size_t winograd_bytes(const void* net, int H, int W, int threads) try {
  const Net& n = *static_cast<const Net*>(net);
  const Program p = sized(n, H / n.unshuffle, W / n.unshuffle, 0);
  return (p.floats + p.scratch() * threads) * sizeof(float);
} catch (...) {
  return 0;
}

int winograd_lanes() { return LANES; }
}
