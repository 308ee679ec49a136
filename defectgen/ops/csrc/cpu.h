// What the CPU files share, and the launchers they offer to bind_cpu.cpp. Units [begin, end) of the
// work may run on any thread; results do not depend on how they are split.
#pragma once

#include <cstring>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "bias_act.h"
#include "convolution.h"
#include "masked_add.h"
#include "upfirdn2d.h"

namespace dg {

// Pixels of one unit of work in channels-last features: fixed, so that sums have one order.
constexpr int64_t kStretch = 256;

inline int64_t stretches_per_sample(const BiasActShape& s) {
  return (s.pixels + kStretch - 1) / kStretch;
}

// The pixels of one unit, counted over the whole batch.
struct Stretch {
  int64_t sample, first, last;
  Stretch(const BiasActShape& s, int64_t unit) {
    const int64_t per = stretches_per_sample(s);
    sample = unit / per;
    first = sample * s.pixels + unit % per * kStretch;
    last = first + kStretch;
    const int64_t end = (sample + 1) * s.pixels;
    last = last < end ? last : end;
  }
};

// A (rows, C) tensor, or one row of a constant where there is none.
template <typename A>
struct Filled {
  const A* data;
  int64_t width;
  std::vector<A> constant;
  Filled(const void* given, int64_t width_, A value)
      : data(static_cast<const A*>(given)), width(width_) {
    if (!data) constant.assign(width_, value);
  }
  const A* row(int64_t n) const { return data ? data + n * width : constant.data(); }
};

// The numbers that belong to the plane of one sample and channel.
template <typename A>
struct Plane {
  int64_t unit, sample, channel;
  Plane(const BiasActShape& s, int64_t unit_)
      : unit(unit_), sample(unit_ / s.channels), channel(unit_ % s.channels) {}
  A of(const void* given, A otherwise) const {
    return given ? static_cast<const A*>(given)[unit] : otherwise;
  }
  A of_channel(const void* given) const {
    return given ? static_cast<const A*>(given)[channel] : A(0);
  }
  const A* pixels_of(const void* given, int64_t pixels) const {
    return given ? static_cast<const A*>(given) + sample * pixels : nullptr;
  }
};

// A sum in sixteen lanes: the compiler may not reorder a plain sum, so this one is in order.
template <typename A>
struct Lanes {
  A lane[16] = {};
  template <typename Value>
  void add(int64_t count, Value value) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      for (int64_t j = 0; j < 16; ++j) lane[j] += value(i + j);
    for (int64_t j = 0; i + j < count; ++j) lane[j] += value(i + j);
  }
  A sum() const {
    A total = A(0);
    for (A v : lane) total += v;
    return total;
  }
};

// A row of results on its way to memory: loops write numbers of the accumulation type, and those of
// narrower features are rounded together afterwards, for which processors have instructions.
template <typename T>
void round_row(const Acc<T>* from, T* to, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) to[i] = store<T>(from[i]);
}
#ifdef __AVX512BF16__
template <>
inline void round_row<BFloat16>(const float* from, BFloat16* to, int64_t count) {
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
    std::memcpy(to + i, &both, sizeof(both));
  }
  for (; i < count; ++i) to[i] = store<BFloat16>(from[i]);
}
#endif

template <typename T>
struct Row {
  std::vector<Acc<T>> line;
  explicit Row(int64_t count) : line(count) {}
  Acc<T>* open(T*) { return line.data(); }
  void close(T* to, int64_t count) { round_row<T>(line.data(), to, count); }
};
// Nothing to round: results go to memory at once.
template <>
struct Row<float> {
  explicit Row(int64_t) {}
  float* open(float* to) { return to; }
  void close(float*, int64_t) {}
};
template <>
struct Row<double> {
  explicit Row(int64_t) {}
  double* open(double* to) { return to; }
  void close(double*, int64_t) {}
};

int64_t bias_act_units(const BiasActShape& s);
void bias_act_forward(DType d, const BiasActForward& f, int64_t begin, int64_t end);
void bias_act_tangent(DType d, const BiasActTangent& f, int64_t begin, int64_t end);
// `partial` holds 2 * channels numbers per unit where sums are wanted and channels come last.
void bias_act_backward(DType d, const BiasActBackward& f, void* partial, int64_t begin, int64_t end);
void bias_act_sums(DType d, const BiasActBackward& f, const void* partial);
void bias_act_noise(DType d, const BiasActBackward& f, int64_t begin, int64_t end);

// Forward and backward where few channels come last, in bfloat16.
bool bias_act_in_runs(DType d, const BiasActShape& s);
void bias_act_forward_runs(const BiasActForward& f, int64_t begin, int64_t end);
void bias_act_backward_runs(const BiasActBackward& f, void* partial, int64_t begin, int64_t end);

int64_t upfirdn2d_units(const UpFirDn& f);
void upfirdn2d(DType d, const UpFirDn& f, int64_t begin, int64_t end);

int64_t masked_add_units(const MaskedAdd& f);
void masked_add(DType d, const MaskedAdd& f, int64_t begin, int64_t end);
int64_t masked_add_backward_units(const MaskedAddBackward& f);
void masked_add_backward(DType d, const MaskedAddBackward& f, int64_t begin, int64_t end);

// First the weights are transformed, then the image is convolved.
int64_t winograd_kernel_size(DType d, const Winograd& f);
int64_t winograd_kernel_units(const Winograd& f);
void winograd_kernel(DType d, const Winograd& f, int64_t begin, int64_t end);
int64_t winograd_units(DType d, const Winograd& f);
void winograd(DType d, const Winograd& f, int64_t begin, int64_t end);
// Each part goes through its chunks of tiles; or, if there is one part, each chunk is transformed,
// then multiplied and summed. Last, sums become weights.
struct WinogradScratch {
  int64_t sums, points;  // floats; with several parts their threads have points of their own
  int64_t parts, chunks, transform_units, product_units;
};
WinogradScratch winograd_scratch(DType d, const WinogradWeights& f);
void winograd_parts(DType d, const WinogradWeights& f, int64_t begin, int64_t end);
void winograd_tiles(DType d, const WinogradWeights& f, int64_t index, int64_t begin, int64_t end);
void winograd_sums(DType d, const WinogradWeights& f, int64_t index, int64_t begin, int64_t end);
void winograd_weights(DType d, const WinogradWeights& f, int64_t begin, int64_t end);
// First pixels are summed, then the sums are transposed to weights.
int64_t strided_sums_size(const StridedWeights& f);
int64_t strided_sums_units(const StridedWeights& f);
void strided_sums(const StridedWeights& f, int64_t begin, int64_t end);
void strided_weights(const StridedWeights& f, int64_t begin, int64_t end);

}  // namespace dg
