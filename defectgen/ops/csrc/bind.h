// The thin binding on LibTorch's stable ABI (target 2.10): tensors in, plain structs to a launcher.
// `Launch` is the device: bind_cpu.cpp and bind_cuda.cpp each give one and register these functions.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "bias_act.h"
#include "masked_add.h"
#include "upfirdn2d.h"

namespace dg {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

inline DType kind(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      STD_TORCH_CHECK(false, "defectgen: features must be float16, bfloat16, float32 or float64");
  }
  return DType::f32;
}

// The type that sums and small tensors have for features of this type.
inline ScalarType exact(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Whether the channels of a pixel lie together and pixels in order, with or without gaps: results
// then lie channels last too. The same rule as `layout` in _library.py.
inline bool lies_channels_last(const Tensor& x) {
  if (x.dim() != 4) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  return C > 1 && (H > 1 || W > 1) && x.stride(1) == 1 && (W == 1 || x.stride(3) >= C) &&
         (H == 1 || x.stride(2) >= W * (W == 1 ? C : x.stride(3)));
}

inline Tensor arranged(const Tensor& x, bool last) {
  return torch::stable::contiguous(x, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline Tensor fresh(const Tensor& like, const Sizes& sizes, ScalarType type, bool last = false) {
  return torch::stable::empty(
      sizes, type, std::nullopt, like.device(), std::nullopt,
      last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline Sizes sizes_of(const Tensor& x) {
  Sizes result(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) result[i] = x.size(i);
  return result;
}

// Keeps what an op reads alive and in the order it reads it in.
struct Inputs {
  Sizes sizes;
  bool last;
  ScalarType type, small;
  bool on_cpu;
  int64_t index;
  std::vector<Tensor> kept;

  explicit Inputs(const Tensor& x)
      : sizes(sizes_of(x)),
        last(lies_channels_last(x)),
        type(x.scalar_type()),
        small(exact(x)),
        on_cpu(x.is_cpu()),
        index(x.get_device_index()) {
    kept.reserve(8);
  }
  const void* keep(Tensor t) {
    // A pointer of another device would not fail here but in the kernel, and take the context along.
    STD_TORCH_CHECK(t.is_cpu() == on_cpu && t.get_device_index() == index,
                    "defectgen: all tensors of an op must be on the device of its features");
    kept.push_back(t);
    return kept.back().const_data_ptr();
  }
  const void* features(const Tensor& t, const char* name) {
    STD_TORCH_CHECK(t.scalar_type() == type && sizes_of(t) == sizes, "defectgen: ", name,
                    " must have the shape and dtype of the other features");
    return keep(arranged(t, last));
  }
  const void* features(const Maybe& t, const char* name) {
    return t ? features(*t, name) : nullptr;
  }
  // A small tensor with this many numbers.
  const void* numbers(const Maybe& t, int64_t count, const char* name) {
    if (!t) return nullptr;
    STD_TORCH_CHECK(t->scalar_type() == small && t->numel() == count, "defectgen: ", name,
                    " must have ", count, " numbers of the accumulation type, got ", t->numel());
    return keep(torch::stable::contiguous(*t));
  }
};

inline BiasActShape bias_act_shape(const Inputs& in, double slope, double gain, double clamp) {
  int64_t pixels = 1;
  for (size_t i = 2; i < in.sizes.size(); ++i) pixels *= in.sizes[i];
  // Without pixels, or with one, a row of channels is what lies together.
  return {in.sizes[0], in.sizes[1], pixels, in.last || pixels == 1, slope, gain, clamp};
}

template <typename Launch>
Tensor bias_act(const Tensor& x, const Maybe& scale, const Maybe& noise, const Maybe& bias,
                const Maybe& post, double slope, double gain, double clamp) {
  Inputs in(x);
  BiasActForward f;
  f.shape = bias_act_shape(in, slope, gain, clamp);
  const int64_t rows = f.shape.batch * f.shape.channels;
  f.x = in.features(x, "x");
  f.scale = in.numbers(scale, rows, "scale");
  f.noise = in.numbers(noise, f.shape.batch * f.shape.pixels, "noise");
  f.bias = in.numbers(bias, f.shape.channels, "bias");
  f.post = in.numbers(post, rows, "post");
  Tensor out = fresh(x, in.sizes, in.type, in.last);
  f.out = out.mutable_data_ptr();
  if (x.numel()) Launch::run(kind(x), f, x);
  return out;
}

template <typename Launch>
Tensor bias_act_tangent(const Tensor& y, const Maybe& a, const Maybe& scale, const Maybe& x,
                        const Maybe& dscale, const Maybe& dnoise, const Maybe& dbias, double slope,
                        double gain, double clamp) {
  Inputs in(y);
  BiasActTangent f;
  f.shape = bias_act_shape(in, slope, gain, clamp);
  const int64_t rows = f.shape.batch * f.shape.channels;
  f.y = in.features(y, "y");
  f.a = in.features(a, "a");
  f.scale = in.numbers(scale, rows, "scale");
  f.x = in.features(x, "x");
  f.dscale = in.numbers(dscale, rows, "dscale");
  f.dnoise = in.numbers(dnoise, f.shape.batch * f.shape.pixels, "dnoise");
  f.dbias = in.numbers(dbias, rows, "dbias");
  STD_TORCH_CHECK(!dscale || x, "defectgen: dscale needs x");
  Tensor out = fresh(y, in.sizes, in.type, in.last);
  f.out = out.mutable_data_ptr();
  if (y.numel()) Launch::run(kind(y), f, y);
  return out;
}

// dx, sum of du over pixels (N, C), sum of du * x over pixels (N, C), sum of du over channels (N, P).
template <typename Launch>
std::tuple<Tensor, Tensor, Tensor, Tensor> bias_act_backward(const Tensor& dy, const Tensor& y,
                                                             const Maybe& x, const Maybe& scale,
                                                             bool need_sums, bool need_noise,
                                                             double slope, double gain,
                                                             double clamp) {
  Inputs in(y);
  BiasActBackward f;
  f.shape = bias_act_shape(in, slope, gain, clamp);
  const int64_t N = f.shape.batch, C = f.shape.channels, P = f.shape.pixels;
  f.dy = in.features(dy, "dy");
  f.y = in.features(y, "y");
  f.x = in.features(x, "x");
  f.scale = in.numbers(scale, N * C, "scale");
  Tensor dx = fresh(y, in.sizes, in.type, in.last);
  const bool sums = need_sums || x, dots = x.has_value();
  Tensor sum = fresh(y, {sums ? N : 0, C}, in.small), dot = fresh(y, {dots ? N : 0, C}, in.small);
  Tensor noise = fresh(y, {need_noise ? N : 0, P}, in.small);
  f.dx = dx.mutable_data_ptr();
  f.sums = sums ? sum.mutable_data_ptr() : nullptr;
  f.dots = dots ? dot.mutable_data_ptr() : nullptr;
  f.dnoise = need_noise ? noise.mutable_data_ptr() : nullptr;
  if (y.numel()) {
    Launch::run(kind(y), f, y);
  } else {
    torch::stable::zero_(sum);
    torch::stable::zero_(dot);
    torch::stable::zero_(noise);
  }
  return {dx, sum, dot, noise};
}

// `taps` in correlation order, times the root of the gain; pad: left, right, top, bottom.
template <typename Launch>
Tensor filtered(const Tensor& x, const Tensor& taps, int64_t up, int64_t down, int64_t left,
                 int64_t right, int64_t top, int64_t bottom, bool epilogue, const Maybe& scale,
                 const Maybe& noise, const Maybe& bias, const Maybe& post, double slope,
                 double gain, double clamp) {
  STD_TORCH_CHECK(x.dim() == 4, "defectgen: upfirdn2d takes (N, C, H, W)");
  Inputs in(x);
  const int64_t N = in.sizes[0], C = in.sizes[1], H = in.sizes[2], W = in.sizes[3];
  const int64_t K = taps.numel();
  const int64_t high = (H * up + top + bottom - K) / down + 1;
  const int64_t wide = (W * up + left + right - K) / down + 1;
  STD_TORCH_CHECK(H * up + top + bottom >= K && W * up + left + right >= K,
                  "defectgen: upfirdn2d: the padded input must be at least as large as the filter");
  UpFirDn f;
  f.rows = {H, high, static_cast<int>(up), static_cast<int>(down), static_cast<int>(top),
            static_cast<int>(K)};
  f.columns = {W, wide, static_cast<int>(up), static_cast<int>(down), static_cast<int>(left),
               static_cast<int>(K)};
  f.batch = N;
  f.channels = C;
  f.channels_last = in.last;
  f.x = in.features(x, "x");
  f.taps = in.numbers(taps, K, "taps");
  f.epilogue = epilogue;
  f.slope = slope;
  f.gain = gain;
  f.clamp = clamp;
  f.scale = in.numbers(scale, N * C, "scale");
  f.noise = in.numbers(noise, N * high * wide, "noise");
  f.bias = in.numbers(bias, C, "bias");
  f.post = in.numbers(post, N * C, "post");
  Tensor out = fresh(x, {N, C, high, wide}, in.type, in.last);
  f.out = out.mutable_data_ptr();
  if (out.numel()) Launch::run(kind(x), f, x);
  return out;
}

template <typename Launch>
Tensor upfirdn2d(const Tensor& x, const Tensor& taps, int64_t up, int64_t down, int64_t left,
                 int64_t right, int64_t top, int64_t bottom) {
  const Maybe none;
  return filtered<Launch>(x, taps, up, down, left, right, top, bottom, false, none, none, none,
                          none, 1.0, 1.0, -1.0);
}

template <typename Launch>
Tensor upfirdn2d_bias_act(const Tensor& x, const Tensor& taps, int64_t up, int64_t down,
                          int64_t left, int64_t right, int64_t top, int64_t bottom,
                          const Maybe& scale, const Maybe& noise, const Maybe& bias,
                          const Maybe& post, double slope, double gain, double clamp) {
  return filtered<Launch>(x, taps, up, down, left, right, top, bottom, true, scale, noise, bias,
                          post, slope, gain, clamp);
}

// The sum, the upsampled logits (N, 1, H, W) and the gate, uint8 (N, 1, H, W).
template <typename Launch>
std::tuple<Tensor, Tensor, Tensor> masked_add(const Tensor& x, const Tensor& residual,
                                              const Tensor& logits, const Tensor& first_row,
                                              const Tensor& row_weights, const Tensor& first_column,
                                              const Tensor& column_weights, const Maybe& within,
                                              bool straight_through) {
  (void)straight_through;  // a matter of the gradient
  Inputs in(x);
  MaskedAdd f;
  f.batch = in.sizes[0];
  f.channels = in.sizes[1];
  f.height = in.sizes[2];
  f.width = in.sizes[3];
  f.small_height = logits.size(2);
  f.small_width = logits.size(3);
  f.channels_last = in.last;
  f.x = in.features(x, "x");
  f.residual = in.features(residual, "residual");
  f.logits = in.numbers(logits, f.batch * f.small_height * f.small_width, "logits");
  STD_TORCH_CHECK(first_row.scalar_type() == ScalarType::Int && first_row.numel() == f.height &&
                      first_column.scalar_type() == ScalarType::Int &&
                      first_column.numel() == f.width,
                  "defectgen: masked_add: the tables must have one int32 entry per row and column");
  f.first_row = static_cast<const int32_t*>(in.keep(first_row));
  f.first_column = static_cast<const int32_t*>(in.keep(first_column));
  f.row_weights = in.numbers(row_weights, f.height * kTableTaps, "row_weights");
  f.column_weights = in.numbers(column_weights, f.width * kTableTaps, "column_weights");
  f.within = nullptr;
  if (within) {
    STD_TORCH_CHECK(within->scalar_type() == ScalarType::Bool &&
                        within->numel() == f.batch * f.height * f.width,
                    "defectgen: masked_add: within must be bool (N, 1, H, W)");
    f.within = static_cast<const uint8_t*>(in.keep(torch::stable::contiguous(*within)));
  }
  const Sizes plane{f.batch, 1, f.height, f.width};
  Tensor out = fresh(x, in.sizes, in.type, in.last);
  Tensor level = fresh(x, plane, in.small), gate = fresh(x, plane, ScalarType::Byte);
  f.out = out.mutable_data_ptr();
  f.level = level.mutable_data_ptr();
  f.gate = static_cast<uint8_t*>(gate.mutable_data_ptr());
  if (x.numel()) Launch::run(kind(x), f, x);
  return {out, level, gate};
}

// dresidual, and with `residual` the gradient of the upsampled logits (N, 1, H, W).
template <typename Launch>
std::tuple<Tensor, Tensor> masked_add_backward(const Tensor& dy, const Tensor& gate,
                                               const Maybe& residual, const Maybe& level,
                                               const Maybe& within, double steepness) {
  Inputs in(dy);
  MaskedAddBackward f;
  f.batch = in.sizes[0];
  f.channels = in.sizes[1];
  f.pixels = in.sizes[2] * in.sizes[3];
  f.channels_last = in.last;
  f.dy = in.features(dy, "dy");
  STD_TORCH_CHECK(gate.scalar_type() == ScalarType::Byte && gate.numel() == f.batch * f.pixels,
                  "defectgen: masked_add: gate must be uint8 (N, 1, H, W)");
  f.gate = static_cast<const uint8_t*>(in.keep(torch::stable::contiguous(gate)));
  f.residual = in.features(residual, "residual");
  f.level = in.numbers(level, f.batch * f.pixels, "level");
  STD_TORCH_CHECK(!residual || level, "defectgen: masked_add: residual needs level");
  f.within = nullptr;
  if (within) {
    STD_TORCH_CHECK(within->numel() == f.batch * f.pixels, "defectgen: masked_add: within");
    f.within = static_cast<const uint8_t*>(in.keep(torch::stable::contiguous(*within)));
  }
  f.steepness = steepness;
  Tensor dresidual = fresh(dy, in.sizes, in.type, in.last);
  Tensor dlevel = fresh(dy, {residual ? f.batch : 0, 1, in.sizes[2], in.sizes[3]}, in.small);
  f.dresidual = dresidual.mutable_data_ptr();
  f.dlevel = dlevel.mutable_data_ptr();
  if (dy.numel()) Launch::run(kind(dy), f, dy);
  return {dresidual, dlevel};
}

}  // namespace dg

#define DG_REGISTER(KEY, LAUNCH)                                             \
  STABLE_TORCH_LIBRARY_IMPL(defectgen, KEY, m) {                      \
    m.impl("bias_act", TORCH_BOX(&dg::bias_act<LAUNCH>));                    \
    m.impl("bias_act_tangent", TORCH_BOX(&dg::bias_act_tangent<LAUNCH>));    \
    m.impl("bias_act_backward", TORCH_BOX(&dg::bias_act_backward<LAUNCH>));  \
    m.impl("upfirdn2d", TORCH_BOX(&dg::upfirdn2d<LAUNCH>));                  \
    m.impl("upfirdn2d_bias_act", TORCH_BOX(&dg::upfirdn2d_bias_act<LAUNCH>)); \
    m.impl("masked_add", TORCH_BOX(&dg::masked_add<LAUNCH>));                \
    m.impl("masked_add_backward", TORCH_BOX(&dg::masked_add_backward<LAUNCH>)); \
  }
