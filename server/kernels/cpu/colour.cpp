// Corrects the colours of an enlarged picture, at the size of the result: see `server/rows/colour_lock.py`.
// Sums are in floats and rounded once. No function throws.

#include <atomic>
#include <thread>
#include <vector>

#include "picture.h"

namespace {

// Rows `top` to `bottom`, divided among the threads.
template <class Part>
int in_parts(int rows, int threads, const Part& part) try {
  std::vector<std::thread> others;
  others.reserve(threads);
  int started = 1;
  const auto run = [&](int i) { part(int(long(rows) * i / threads), int(long(rows) * (i + 1) / threads)); };
  for (; started < threads; started++) try {
      others.emplace_back(run, started);
    } catch (...) {
      break;
    }
  run(0);
  for (; started < threads; started++) run(started);  // no more threads could be started
  for (auto& thread : others) thread.join();
  return 0;
} catch (...) {
  return 1;
}

template <class Sample>
void mean_of_row(const View& view, int y, int width, int scale, float* to) {
  const int C = view.channels;
  const float share = 1 / (float(scale) * scale * range<Sample>());
  for (int x = 0; x < width; x++)
    for (int c = 0; c < C; c++) {
      unsigned sum = 0;
      for (int i = 0; i < scale; i++) {
        const Sample* from = static_cast<const Sample*>(view.data) + long(y * scale + i) * view.row + long(x) * scale * C + c;
        for (int j = 0; j < scale; j++) sum += from[j * C];
      }
      to[x * C + c] = sum * share;
    }
}

// A row of `width` pixels, enlarged linearly.
void enlarged_row(const float* from, int width, int channels, int scale, float* to) {
  for (int x = 0; x < width; x++)
    for (int phase = 0; phase < scale; phase++, to += channels) {
      const float place = (phase + .5f) / scale - .5f;
      const int left = std::max(0, x - (place < 0)), right = std::min(width - 1, x + (place >= 0));
      const float share = place < 0 ? place + 1 : place;
      for (int c = 0; c < channels; c++)
        to[c] = from[left * channels + c] * (1 - share) + from[right * channels + c] * share;
    }
}

template <class In, class Out>
void corrected_row(const View& source, const View& result, int y, const float* above, const float* below, float share,
                   long samples) {
  const In* from = static_cast<const In*>(source.data) + y * source.row;
  Out* to = static_cast<Out*>(result.data) + y * result.row;
  for (long i = 0; i < samples; i++) {
    const float value = float(from[i]) * (1 / range<In>()) + above[i] + (below[i] - above[i]) * share;
    const float scaled = value * range<Out>();
    to[i] = Out(int((scaled > 0 ? std::min(scaled, range<Out>()) : 0.f) + .5f));
  }
}

// For source rows `top` to `bottom`.
void correct(const View& source, const View& result, int top, int bottom, int width, int scale, const float* lost) {
  const int C = source.channels;
  const long samples = long(width) * scale * C;
  std::vector<float> lines(samples * 3);
  const auto line = [&](int y) { return &lines[samples * (y % 3)]; };  // y: a row of `lost`, of which 0 is before the first
  const auto enlarge = [&](int y) { enlarged_row(lost + long(y) * width * C, width, C, scale, line(y)); };
  enlarge(top);
  enlarge(top + 1);
  for (int y = top; y < bottom; y++) {
    enlarge(y + 2);
    for (int phase = 0; phase < scale; phase++) {
      const float place = (phase + .5f) / scale - .5f;
      const int above = y + (place >= 0);
      of_type(source.type, [&](auto in) {
        of_type(result.type, [&](auto out) {
          corrected_row<decltype(in), decltype(out)>(source, result, y * scale + phase, line(above), line(above + 1),
                                                     place < 0 ? place + 1 : place, samples);
        });
      });
    }
  }
}

}  // namespace

extern "C" {

// The mean of each `scale` x `scale` samples, 0 to 1: `rows` x `width` x channels floats. Samples are interleaved.
int colour_reduce(const View* view, int rows, int width, int scale, float* to, int threads) {
  return in_parts(rows, threads, [&](int top, int bottom) {
    of_type(view->type, [&](auto sample) {
      for (int y = top; y < bottom; y++)
        mean_of_row<decltype(sample)>(*view, y, width, scale, to + long(y) * width * view->channels);
    });
  });
}

// The samples of `rows` source rows, plus `lost` in the same place, interpolated to the size of the result. `lost` has rows of
// `width` pixels; its first row is that of the source row before, its last that of the row after.
int colour_correct(const View* source, const View* result, int rows, int width, int scale, const float* lost,
                   int threads) {
  std::atomic<bool> failed{false};
  const int ended = in_parts(rows, threads, [&](int top, int bottom) {
    try {
      correct(*source, *result, top, bottom, width, scale, lost);
    } catch (...) {
      failed = true;
    }
  });
  return ended || failed;
}
}
