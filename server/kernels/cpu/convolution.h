// 3x3 convolutions in fp32 by Winograd's F(6x6, 3x3): the arithmetic of one tile, and the weights.
//
// A tile is 6x6 results. The 8x8 samples under it are transformed to 64 numbers per channel, these are multiplied by 64
// transformed weights (64 small matrix products; a plain convolution has 324), and the products are transformed back.
// After Lavin and Gray, arXiv:1509.09308; the points are 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
#pragma once

#include <immintrin.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "memory.h"

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
constexpr int DEEP = 32;         // channels that are transformed and multiplied at a time, at most
constexpr size_t SKEW = 16;     // floats between places, so that they do not all use the same sets of the L1 cache

int padded(int channels) { return (channels + 15) / 16 * 16; }

// ---- transforms; the compiler contracts a * b + c to FMA ----

ALWAYS_INLINE void transform_in(const Vec d[SIDE], Vec o[SIDE]) {
  const Vec a = (d[2] - 4.25f * d[4]) + d[6], b = (d[1] - 4.25f * d[3]) + d[5];
  const Vec c = .25f * d[2] + (d[6] - 1.25f * d[4]), e = .25f * d[1] + (d[5] - 1.25f * d[3]);
  const Vec f = 4.f * d[2] + (d[6] - 5.f * d[4]), g = 4.f * d[1] + (d[5] - 5.f * d[3]);
  o[0] = (d[0] - d[6]) + 5.25f * (d[4] - d[2]);
  o[1] = a + b;
  o[2] = a - b;
  o[3] = c + 2.f * e;
  o[4] = c - 2.f * e;
  o[5] = f + .5f * g;
  o[6] = f - .5f * g;
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

typedef double Doubles __attribute__((vector_size(LANES * 4)));
typedef float Floats __attribute__((vector_size(LANES * 2)));
typedef float UnalignedFloats __attribute__((vector_size(LANES * 2), aligned(4)));

ALWAYS_INLINE Doubles doubles(const float* p) {
  return __builtin_convertvector(Floats(*reinterpret_cast<const UnalignedFloats*>(p)), Doubles);
}
ALWAYS_INLINE void store_floats(float* p, Doubles v) {
  *reinterpret_cast<UnalignedFloats*>(p) = __builtin_convertvector(v, Floats);
}

ALWAYS_INLINE Doubles fused(double a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c);
#else
  return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c);
#endif
}

// Three weights to SIDE transformed numbers. In double: the sums have numbers of very different size. Ninths are often
// half-way between two floats, so the order of the operations decides bits of the result; compilers may not choose it.
ALWAYS_INLINE void transform_weights(Doubles a, Doubles b, Doubles c, Doubles o[SIDE]) {
  const auto pair = [&](double x, double y, double z, Doubles* to) {
    const Doubles m = y * b;
    to[0] = fused(z, c, fused(x, a, m));
    to[1] = fused(z, c, fused(x, a, -m));
  };
  o[0] = a;
  pair(-2. / 9, -2. / 9, -2. / 9, o + 1);
  pair(1. / 90, 1. / 45, 2. / 45, o + 3);
  pair(1. / 45, 1. / 90, 1. / 180, o + 5);
  o[7] = c;
}

constexpr int MOST = 48;  // tiles that are multiplied together, at most
#if defined(__AVX512F__)
constexpr int WIDE = 4;  // vectors of a panel of weights, at most
#else
constexpr int WIDE = 2;
#endif

// Bytes of a core's L2 cache, about.
inline size_t level2() {
  static const size_t size = [] {
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return size_t(std::clamp(found > 0 ? found : 512l << 10, 256l << 10, 2048l << 10));
  }();
  return size;
}

struct Conv {
  int K, KP;  // channels in: up to the last that is used, and padded
  int N, NP;  // channels out
  bool active = false;
  Pages memory;
  // As in the checkpoint: [channel in][3 x 3][channel out]. Null if they are kept transformed.
  float* plain = nullptr;
  // Transformed: slices of DEEP channels in; of these [PLACES]; of these panels of WIDE vectors of channels out:
  // [slice][panel]. This is the order in which they are used. Null if each run transforms them.
  float* U = nullptr;
  float *bias, *slope;

  // Tiles that are multiplied together: with more, weights are read less often, but the intermediate values must fit into the
  // L2 cache.
  int together() const {
    const size_t tile = PLACES * sizeof(float) * (std::min(KP, DEEP) + NP);
    return std::clamp(int(level2() * 6 / 10 / tile) / TILE * TILE, 2 * TILE, MOST);
  }

  // Channels of the slice that begins with channel `slice`.
  int deep(int slice) const { return std::min(DEEP, K - slice); }

  // Index of the transformed weights of an input channel and an output channel.
  size_t at(int p, int k, int n) const {
    const int slice = k / DEEP * DEEP, panel = n / (WIDE * LANES) * WIDE * LANES;
    return PLACES * (size_t(slice) * NP + slice / DEEP * SKEW) + p * (size_t(deep(slice)) * NP + SKEW) +
           size_t(deep(slice)) * panel + (k - slice) * std::min(WIDE * LANES, NP - panel) + n - panel;
  }

  size_t transformed() const { return PLACES * (size_t(K) * NP + (K + DEEP - 1) / DEEP * SKEW); }  // floats

  // w: [out][in][3][3]. The input channels are in segments, each padded to a multiple of 16: the first has `first` channels,
  // all others `other`. `keep`: they are kept transformed, which takes 7 times the memory.
  Conv(const float* w, const float* b, const float* s, int in, int out, int first, int other, bool keep)
      : N(out), NP(padded(out)) {
    const auto place = [&](int i) {
      return i < first ? i : padded(first) + (i - first) / other * padded(other) + (i - first) % other;
    };
    K = place(in - 1) + 1;
    KP = padded(K);
    Pages temporary;
    Pages& weights = keep ? temporary : memory;
    weights.take(size_t{9} * K * NP + (keep ? 0 : 2 * NP));
    plain = weights.data;
    for (int i = 0; i < in; i++)
      for (int o = 0; o < out; o++)
        for (int t = 0; t < 9; t++) plain[(size_t{9} * place(i) + t) * NP + o] = w[(size_t{1} * o * in + i) * 9 + t];
    bias = plain + size_t{9} * K * NP;
    if (keep) {
      memory.take(transformed() + 2 * NP);
      U = memory.data;
      bias = U + transformed();
      for (int slice = 0; slice < K; slice += DEEP) transform(slice, U);
      plain = nullptr;
    }
    slope = bias + NP;
    active = s != nullptr;
    std::copy(b, b + out, bias);
    if (s) std::copy(s, s + out, slope);
  }

  // Transforms a slice of at most DEEP channels in, to its place in `to`: 16 channels out, which are a cache line, at a time, in
  // the order in which they are stored.
  void transform(int slice, float* to) const {
    constexpr int PARTS = 2 * 16 / LANES;
    const size_t step = at(1, slice, 0) - at(0, slice, 0);
    float* line = to + at(0, slice, 0);
    for (int panel = 0; panel < NP; panel += WIDE * LANES)
      for (int k = slice; k < slice + deep(slice); k++)
        for (int n = panel; n < std::min(NP, panel + WIDE * LANES); n += 16, line += 16) {
          Doubles half[PARTS][3][SIDE];
#pragma GCC unroll 4
          for (int part = 0; part < PARTS; part++)
#pragma GCC unroll 3
            for (int x = 0; x < 3; x++) {
              const float* g = plain + (size_t{9} * k + x) * NP + n + part * LANES / 2;
              transform_weights(doubles(g), doubles(g + 3 * NP), doubles(g + 6 * NP), half[part][x]);
            }
          float* place = line;
#pragma GCC unroll 8
          for (int y = 0; y < SIDE; y++) {
            Doubles o[PARTS][SIDE];
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++)
              transform_weights(half[part][0][y], half[part][1][y], half[part][2][y], o[part]);
#pragma GCC unroll 8
            for (int x = 0; x < SIDE; x++, place += step) {
              __builtin_prefetch(place + 16, 1);
#pragma GCC unroll 4
              for (int part = 0; part < PARTS; part++) store_floats(place + part * LANES / 2, o[part][x]);
            }
          }
        }
  }
};

// ---- products ----

// R rows of A times `deep` x N vectors of B, written to C, or added to it.
template <int R, int N, bool MORE>
void multiply(const float* A, const float* B, float* C, size_t ldc, int deep) {
  Vec c[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) c[r][n] = MORE ? load(C + r * ldc + n * LANES) : Vec{};
  const float* ahead = B + size_t(deep) * N * LANES;
#pragma GCC unroll 2
  for (int k = 0; k < deep; k++) {
    // Prefetch the next panel: the hardware would do it too late.
    for (int n = 0; n < N; n += 16 / LANES) __builtin_prefetch(ahead + (k * N + n) * LANES);
    Vec b[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) b[n] = load(B + (k * N + n) * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const Vec a = all(A[r * DEEP + k]);
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) c[r][n] += a * b[n];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) store(C + r * ldc + n * LANES, c[r][n]);
}

using Multiply = void (*)(const float* A, const float* B, float* C, size_t ldc, int deep);

// `multiply` for 1 to R rows.
template <int N, bool MORE, size_t... R>
constexpr std::array<Multiply, sizeof...(R)> for_rows(std::index_sequence<R...>) {
  return {multiply<int(R) + 1, N, MORE>...};
}

// All rows, in parts as large as registers allow, of nearly equal size.
template <int N, bool MORE>
ALWAYS_INLINE void multiply_rows(int rows, const float* A, const float* B, float* C, size_t ldc, int deep) {
  constexpr int R = LANES == 16 && N <= 2 ? 12 : 6;
  static constexpr auto parts = for_rows<N, MORE>(std::make_index_sequence<R>());
  for (int left = (rows + R - 1) / R, r = 0; left; left--) {
    const int part = (rows - r + left - 1) / left;
    parts[part - 1](A + r * DEEP, B, C + r * ldc, ldc, deep);
    r += part;
  }
}

// A slice of V: [PLACES][tiles][DEEP], places `vstep` apart, by the transformed weights U, to M: [PLACES][tiles][NP], `mstep` apart.
template <bool MORE>
void multiply_slice(const Conv& conv, const float* U, int slice, int tiles, const float* V, size_t vstep, float* M,
                    size_t mstep, bool upsampled) {
  const int NP = conv.NP, deep = conv.deep(slice);
  for (int p = 0; p < PLACES; p++) {
    // With repeated samples, the third row and column of a transformed tile are exactly zero.
    if (upsampled && (p / SIDE == 2 || p % SIDE == 2)) continue;
    const float *A = V + p * vstep, *B = U + conv.at(p, slice, 0);
    float* C = M + p * mstep;
    for (int n = 0; n < NP; n += WIDE * LANES, B += deep * WIDE * LANES) {
      const int wide = std::min((NP - n) / LANES, WIDE);
      if (wide == 2) multiply_rows<2, MORE>(tiles, A, B, C + n, NP, deep);
#if defined(__AVX512F__)
      else if (wide == 4) multiply_rows<4, MORE>(tiles, A, B, C + n, NP, deep);
      else if (wide == 3) multiply_rows<3, MORE>(tiles, A, B, C + n, NP, deep);
      else multiply_rows<1, MORE>(tiles, A, B, C + n, NP, deep);
#endif
    }
  }
}

}  // namespace
