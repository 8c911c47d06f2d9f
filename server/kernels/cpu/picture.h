// Reads and writes pictures of 8 bits, 16 bits or floats.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "convolution.h"

namespace {

// Samples in memory; steps from one to the next are in samples. Integers stand for 0 to 1.
struct View {
  void* data;
  int type;  // 0: 8 bits, 1: 16 bits, 2: floats
  int channels;
  long row, pixel, channel;
};

// The source is unshuffled by `unshuffle`, the result shuffled by `shuffle` on top of the repeated source if `base`.
// A single channel of the source is used for all. Where the result has a single channel, it is the mean of all.
struct Picture {
  View source{}, result{};
  int top = 0, left = 0, rows = 0, columns = 0;  // the part of the result that its view has
  int channels = 3, out_channels = 3;            // of the network
  int opaque = 0;                                // channels of the network after those of the source, 1 everywhere
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

// f(Sample{}) for a view's type of samples.
template <class F>
ALWAYS_INLINE void of_type(int type, F f) {
  if (type == 0) f(uint8_t{});
  else if (type == 1) f(uint16_t{});
  else f(float{});
}

// Columns `left` to `right` of a row of the unshuffled source, `wide` floats each, the rest of them zero.
inline void read_row(const Picture& p, int y, int left, int right, float* to, int wide) {
  const int u = p.unshuffle;
  std::memset(to, 0, size_t(right - left) * wide * sizeof(float));
  of_type(p.source.type, [&](auto sample) {
    for (int c = 0; c < p.channels + p.opaque; c++)
      for (int dy = 0; dy < u; dy++)
        for (int dx = 0; dx < u; dx++) {
          float* at = to + (c * u + dy) * u + dx;
          for (long x = left; x < right; x++, at += wide)
            *at = c < p.channels ? read<decltype(sample)>(p.source, long(y) * u + dy, x * u + dx, c) : 1.f;
        }
  });
}

// Writes a tile's results, [TILE * TILE][NP], as far as they are inside a map of H x W, to the picture.
template <int SHUFFLE, class Sample>
void write_samples(const Picture& p, float* tile, int NP, int y0, int x0, int H, int W) {
  const int r = SHUFFLE ? SHUFFLE : p.shuffle;
  const int y1 = std::max(0, -y0), y2 = std::min(TILE, H - y0), x1 = std::max(0, -x0), x2 = std::min(TILE, W - x0);
  const int left = x0 * r - p.left, begin = std::max(x1 * r, -left), end = std::min(x2 * r, p.columns - left);
  const bool mean = p.result.channels == 1 && p.out_channels > 1;
  Sample* result = static_cast<Sample*>(p.result.data);
  for (int c = 0; c < p.out_channels; c++) {
    float base[TILE][TILE] = {};
    if (p.base)
      of_type(p.source.type, [&](auto sample) {
        for (int y = y1; y < y2; y++)
          for (int x = x1; x < x2; x++) base[y][x] = read<decltype(sample)>(p.source, y0 + y, x0 + x, c);
      });
    for (int y = y1; y < y2; y++)
      for (int dy = 0; dy < r; dy++) {
        const int row = (y0 + y) * r + dy - p.top;
        if (row < 0 || row >= p.rows) continue;
        float* from = tile + y * TILE * NP + dy * r;
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

}  // namespace
