// Resizing rows of a picture by a separable filter, whose weights `server/rows/resample.py` computes: first along the rows,
// then along the columns, in floats, with one rounding at the end. Colours are multiplied by their alpha on the way.
//
// Each thread makes its own rows, and keeps only the source rows that one of them needs: six for an enlargement. There is
// no global state. No function throws.

#include <atomic>
#include <thread>

#include "picture.h"

namespace {

// Along one side: result i is made of the `taps` source samples from start[i] on.
struct Axis {
  const int* start;
  const float* weights;  // `taps` for each result
  int taps;
};

struct Resize {
  View kept, band;  // source rows before row `first`, and those from it on; channels are interleaved
  int kept_rows, first;
  int w, W;   // columns of source and result
  int alpha;  // whether the last channel is alpha
  Axis across, down;
  View result;
  int top;  // number of the result's first row
};

// Four floats: a pixel's channels, and what follows them in memory.
typedef float Four __attribute__((vector_size(16)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4)));

// Source row `y` as floats from 0 to 1.
template <class Sample>
void read_line(const Resize& r, int y, float* to) {
  const View& v = y < r.first ? r.kept : r.band;
  const int C = v.channels, base = y < r.first ? r.first - r.kept_rows : r.first;
  const Sample* from = static_cast<const Sample*>(v.data) + (y - base) * v.row;
  const long samples = long(r.w) * C;
  for (long i = 0; i < samples; i++) to[i] = float(from[i]) * (1 / range<Sample>());
  if (!r.alpha) return;
  for (float* pixel = to; pixel < to + samples; pixel += C)
    for (int c = 0; c < C - 1; c++) pixel[c] *= pixel[C - 1];
}

// TAPS: the number of taps, where it is known at compile time.
template <int TAPS>
void along_row(const Axis& axis, const float* from, int channels, int width, float* to) {
  const int taps = TAPS ? TAPS : axis.taps;
  const float* weight = axis.weights;
  for (int x = 0; x < width; x++, weight += taps, to += channels) {
    const float* pixel = from + long(axis.start[x]) * channels;
    Four sum{};
    for (int t = 0; t < taps; t++, pixel += channels) sum += *reinterpret_cast<const LooseFour*>(pixel) * weight[t];
    *reinterpret_cast<LooseFour*>(to) = sum;  // may write beyond the pixel, where the next one will be
  }
}

template <class Sample>
void write_line(const Resize& r, float* line, int y) {
  const View& v = r.result;
  const int C = v.channels;
  const long samples = long(r.W) * C;
  if (r.alpha)
    for (float* pixel = line; pixel < line + samples; pixel += C) {
      const float opacity = pixel[C - 1], share = opacity > 0 ? 1 / opacity : 0;
      for (int c = 0; c < C - 1; c++) pixel[c] *= share;
    }
  Sample* to = static_cast<Sample*>(v.data) + (y - r.top) * v.row;
  for (long i = 0; i < samples; i++) {
    const float scaled = line[i] * range<Sample>();
    to[i] = Sample(int((scaled > 0 ? std::min(scaled, range<Sample>()) : 0.f) + .5f));
  }
}

// Result rows `top` to `bottom`.
void make_rows(const Resize& r, int top, int bottom) {
  const int C = r.band.channels, taps = r.down.taps;
  const size_t wide = (size_t(r.W) * C + 2 * LANES) / LANES * LANES;
  std::vector<float> source(size_t(r.w) * C + 4), line(wide), rows(wide * taps);
  int next = r.down.start[top];
  for (int y = top; y < bottom; y++) {
    const int begin = r.down.start[y];
    for (next = std::max(next, begin); next < begin + taps; next++) {
      of_type(r.band.type, [&](auto sample) { read_line<decltype(sample)>(r, next, source.data()); });
      const auto filter = r.across.taps == 6 ? along_row<6> : along_row<0>;
      filter(r.across, source.data(), C, r.W, &rows[wide * (next % taps)]);
    }
    const float* weights = r.down.weights + long(y) * taps;
    for (size_t i = 0; i < wide; i += LANES) {
      Vec sum{};
      for (int t = 0; t < taps; t++) sum += load(&rows[wide * ((begin + t) % taps) + i]) * weights[t];
      store(&line[i], sum);
    }
    of_type(r.result.type, [&](auto sample) { write_line<decltype(sample)>(r, line.data(), y); });
  }
}

}  // namespace

extern "C" {

// `rows` rows of the result, from row `top` on. The source rows: `kept` has the `kept_rows` rows before row `first`, `band`
// those from it on. Returns 0, or 1 when there is no memory.
int lanczos_rows(const View* kept, int kept_rows, const View* band, int first, int w, int W, int alpha,
                 const int* starts_across, const float* weights_across, int taps_across, const int* starts_down,
                 const float* weights_down, int taps_down, const View* result, int top, int rows, int threads) try {
  const Resize r{*kept, *band, kept_rows, first, w, W, alpha, {starts_across, weights_across, taps_across},
                 {starts_down, weights_down, taps_down}, *result, top};
  std::atomic<bool> failed{false};
  const auto part = [&](int i) {
    try {
      make_rows(r, top + int(long(rows) * i / threads), top + int(long(rows) * (i + 1) / threads));
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  others.reserve(threads);
  int started = 1;
  for (; started < threads; started++) try {
      others.emplace_back(part, started);
    } catch (...) {
      break;
    }
  part(0);
  for (; started < threads; started++) part(started);  // no more threads could be started
  for (auto& thread : others) thread.join();
  return failed;
} catch (...) {
  return 1;
}
}
