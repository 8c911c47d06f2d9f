// 3x3 convolutions in fp32 by Winograd's F(6x6, 3x3): the arithmetic of one tile, and the weights.
//
// A tile is 6x6 results. The 8x8 samples under it are transformed to 64 numbers per channel, these are multiplied by 64
// transformed weights (64 small matrix products, where the plain way needs 324), and the products are transformed back.
// After Lavin and Gray, arXiv:1509.09308; the points are 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
#pragma once

#include <algorithm>
#include <cstddef>
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

constexpr int TILE = 6;         // results along a side of a tile
constexpr int SIDE = TILE + 2;  // samples along it
constexpr int PLACES = SIDE * SIDE;
constexpr int T = 24;           // tiles that are multiplied together, at most
constexpr size_t SKEW = 16;     // floats between places, or they would all fall into the same sets of the L1 cache

int padded(int channels) { return (channels + 15) / 16 * 16; }

// ---- transforms; the compiler contracts a * b + c to FMA ----

ALWAYS_INLINE void transform_in(const Vec d[SIDE], Vec o[SIDE]) {
  const Vec a = (d[2] - 4.25f * d[4]) + d[6], b = (d[1] - 4.25f * d[3]) + d[5];
  const Vec c = (.25f * d[2] - 1.25f * d[4]) + d[6], e = (.5f * d[1] - 2.5f * d[3]) + 2.f * d[5];
  const Vec f = 4.f * (d[2] - 1.25f * d[4]) + d[6], g = (2.f * d[1] - 2.5f * d[3]) + .5f * d[5];
  o[0] = (d[0] - d[6]) + 5.25f * (d[4] - d[2]);
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + e;
  o[4] = c - e;
  o[5] = f + g;
  o[6] = f - g;
  o[7] = (d[7] - d[1]) + 5.25f * (d[3] - d[5]);
}

ALWAYS_INLINE void transform_out(const Vec m[SIDE], Vec o[TILE]) {
  const Vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4], f = m[5] + m[6], g = m[5] - m[6];
  o[0] = (m[0] + a) + (32.f * f + c);
  o[1] = 16.f * g + (2.f * e + b);
  o[2] = 8.f * f + (4.f * c + a);
  o[3] = 4.f * g + (8.f * e + b);
  o[4] = 2.f * f + (16.f * c + a);
  o[5] = (m[7] + b) + (32.f * e + g);
}

// ---- weights ----

struct Conv {
  int K, KP;  // channels in: up to the last that is used, and padded
  int N, NP;  // channels out
  bool active = false;
  std::vector<float> memory;
  float *U, *bias, *slope;  // U: [PLACES][K][NP]

  // Tiles that are multiplied together, a multiple of every R below: what lies between has to stay in the L2 cache.
  int together() const { return KP + NP <= 128 ? T : T / 2; }

  // w: [out][in][3][3]. The channels that come in lie in segments, each padded to 16s: the first has `first` channels,
  // all others `other`.
  Conv(const float* w, const float* b, const float* s, int in, int out, int first, int other)
      : N(out), NP(padded(out)) {
    std::vector<int> place(in);
    for (int i = 0; i < in; i++) {
      const int j = i < first ? 0 : 1 + (i - first) / other;
      place[i] = i < first ? i : padded(first) + (j - 1) * padded(other) + (i - first) % other;
    }
    K = place[in - 1] + 1;
    KP = padded(K);
    const size_t size = size_t{PLACES} * K * NP;
    memory.assign(size + 2 * NP + 16, 0.f);
    U = memory.data() + (16 - reinterpret_cast<size_t>(memory.data()) / 4 % 16) % 16;
    bias = U + size;
    slope = bias + NP;
    active = s != nullptr;
    std::copy(b, b + out, bias);
    if (s) std::copy(s, s + out, slope);
    constexpr double G[SIDE][3] = {{1, 0, 0},
                                   {-2. / 9, -2. / 9, -2. / 9},
                                   {-2. / 9, 2. / 9, -2. / 9},
                                   {1. / 90, 1. / 45, 2. / 45},
                                   {1. / 90, -1. / 45, 2. / 45},
                                   {1. / 45, 1. / 90, 1. / 180},
                                   {1. / 45, -1. / 90, 1. / 180},
                                   {0, 0, 1}};
    for (int o = 0; o < out; o++)
      for (int i = 0; i < in; i++) {
        const float* g = w + (size_t{1} * o * in + i) * 9;
        double half[SIDE][3];
        for (int y = 0; y < SIDE; y++)
          for (int x = 0; x < 3; x++) half[y][x] = G[y][0] * g[x] + G[y][1] * g[3 + x] + G[y][2] * g[6 + x];
        for (int y = 0; y < SIDE; y++)
          for (int x = 0; x < SIDE; x++)
            U[(size_t(y * SIDE + x) * K + place[i]) * NP + o] =
                float(half[y][0] * G[x][0] + half[y][1] * G[x][1] + half[y][2] * G[x][2]);
      }
  }
};

// ---- products ----

static_assert(T / 2 % 12 == 0, "rows are rounded up to R, and there is room for `together`");

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

// V: [PLACES][together][KP], places `vstep` apart, to M: [PLACES][together][NP], `mstep` apart.
inline void multiply_all(const Conv& conv, int tiles, const float* V, size_t vstep, float* M, size_t mstep,
                         bool upsampled) {
  const int NP = conv.NP;
  for (int p = 0; p < PLACES; p++) {
    // Of repeated samples the third row and column of a transformed tile are exactly zero.
    if (upsampled && (p / SIDE == 2 || p % SIDE == 2)) continue;
    const float *A = V + p * vstep, *B = conv.U + size_t(p) * conv.K * NP;
    float* C = M + p * mstep;
    int n = 0;
    while (n < NP) {
      const int left = (NP - n) / LANES;
#if defined(__AVX512F__)
      const int width = std::min(left, 4);
      if (width == 4) multiply_rows<6, 4>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else if (width == 3) multiply_rows<6, 3>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else if (width == 2) multiply_rows<12, 2>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
      else multiply_rows<12, 1>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
#else
      const int width = std::min(left, 2);
      multiply_rows<6, 2>(tiles, A, conv.KP, B + n, NP, C + n, NP, conv.K);
#endif
      n += width * LANES;
    }
  }
}

}  // namespace
