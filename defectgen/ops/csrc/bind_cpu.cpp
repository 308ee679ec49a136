// Binding of the CPU kernels: work is split over torch's own threads.
#include <string>

#include "bind.h"
#include "cpu.h"
#include "gemm.h"

namespace {

using torch::stable::parallel_for;

// Enough numbers per thread that starting it pays.
constexpr int64_t kGrainNumbers = 32768;

int64_t grain(int64_t numbers, int64_t units) {
  const int64_t per_unit = units ? numbers / units + 1 : 1;
  const int64_t result = kGrainNumbers / per_unit;
  return result > 0 ? result : 1;
}

struct Cpu {
  static void run(dg::DType d, const dg::BiasActForward& f, const dg::Tensor& x) {
    const int64_t units = dg::bias_act_units(f.shape);
    parallel_for(0, units, grain(x.numel(), units),
                 [&](int64_t begin, int64_t end) { dg::bias_act_forward(d, f, begin, end); });
  }
  static void run(dg::DType d, const dg::BiasActTangent& f, const dg::Tensor& y) {
    const int64_t units = dg::bias_act_units(f.shape);
    parallel_for(0, units, grain(y.numel(), units),
                 [&](int64_t begin, int64_t end) { dg::bias_act_tangent(d, f, begin, end); });
  }
  static void run(dg::DType d, const dg::BiasActBackward& f, const dg::Tensor& y) {
    const int64_t units = dg::bias_act_units(f.shape);
    const bool partial = f.sums && f.shape.channels_last;
    std::vector<double> scratch(partial ? units * 2 * f.shape.channels : 0);
    parallel_for(0, units, grain(y.numel(), units), [&](int64_t begin, int64_t end) {
      dg::bias_act_backward(d, f, scratch.data(), begin, end);
    });
    if (partial) dg::bias_act_sums(d, f, scratch.data());
    if (f.dnoise && !f.shape.channels_last)
      parallel_for(0, f.shape.batch, 1,
                   [&](int64_t begin, int64_t end) { dg::bias_act_noise(d, f, begin, end); });
  }
  static void run(dg::DType d, const dg::UpFirDn& f, const dg::Tensor&) {
    const int64_t units = dg::upfirdn2d_units(f);
    const int64_t numbers = f.batch * f.channels * f.rows.out * f.columns.out;
    parallel_for(0, units, grain(numbers, units),
                 [&](int64_t begin, int64_t end) { dg::upfirdn2d(d, f, begin, end); });
  }
  static void run(dg::DType d, const dg::MaskedAdd& f, const dg::Tensor& x) {
    const int64_t units = dg::masked_add_units(f);
    parallel_for(0, units, grain(x.numel(), units),
                 [&](int64_t begin, int64_t end) { dg::masked_add(d, f, begin, end); });
  }
  static void run(dg::DType d, const dg::MaskedAddBackward& f, const dg::Tensor& dy) {
    const int64_t units = dg::masked_add_backward_units(f);
    parallel_for(0, units, grain(dy.numel(), units),
                 [&](int64_t begin, int64_t end) { dg::masked_add_backward(d, f, begin, end); });
  }
};

// -- what only the CPU has: cuDNN chooses its algorithms itself ------------------------------------

// Tensors of features or weights, both float32 or both bfloat16.
bool plain(const dg::Tensor& a, const dg::Tensor& b) {
  const auto type = a.scalar_type();
  return a.dim() == 4 && b.dim() == 4 && b.scalar_type() == type &&
         (type == dg::ScalarType::Float || type == dg::ScalarType::BFloat16);
}

// Scratch for so many sums.
dg::Tensor sums_for(const dg::Tensor& x, int64_t count) {
  return dg::fresh(x, {count}, dg::ScalarType::Float);
}

std::string told(const dg::Tensor& x) {
  std::string text = "(";
  for (int64_t i = 0; i < x.dim(); ++i) text += (i ? ", " : "") + std::to_string(x.size(i));
  switch (x.scalar_type()) {
    case dg::ScalarType::Float:
      return text + ") float32";
    case dg::ScalarType::BFloat16:
      return text + ") bfloat16";
    default:
      return text + ") of another type";
  }
}

dg::Tensor winograd(const dg::Tensor& x, const dg::Tensor& weight, bool adjoint, bool local) {
  STD_TORCH_CHECK(
      plain(x, weight) && weight.size(2) == 3 && weight.size(3) == 3 &&
          weight.size(adjoint ? 0 : 1) == x.size(1),
      "defectgen: winograd: features, float32 or bfloat16, and 3x3 weights that fit them; got ",
      told(x), " and ", told(weight));
  dg::Winograd f;
  f.batch = x.size(0);
  f.in = x.size(1);
  f.height = x.size(2);
  f.width = x.size(3);
  f.out = weight.size(adjoint ? 1 : 0);
  f.adjoint = adjoint;
  f.local = local;
  const dg::Tensor features = dg::arranged(x, true), taps = dg::arranged(weight, true);
  dg::Tensor y = dg::fresh(x, {f.batch, f.out, f.height, f.width}, x.scalar_type(), true);
  const dg::DType d = dg::kind(x);
  dg::Tensor kernel = sums_for(x, dg::winograd_kernel_size(d, f));
  f.x = features.const_data_ptr();
  f.weight = taps.const_data_ptr();
  f.y = y.mutable_data_ptr();
  f.kernel = kernel.mutable_data_ptr();
  if (!y.numel()) return y;
  parallel_for(0, dg::winograd_kernel_units(f), 1,
               [&](int64_t begin, int64_t end) { dg::winograd_kernel(d, f, begin, end); });
  parallel_for(0, dg::winograd_units(d, f), 1,
               [&](int64_t begin, int64_t end) { dg::winograd(d, f, begin, end); });
  return y;
}

// What both gradients of weights have in common: fill in, sum(f) over pixels, which gives the tensor
// of the sums, and transpose(f) these.
template <typename T, typename Shape, typename Sum, typename Transpose>
dg::Tensor weights(Shape f, const dg::Tensor& x, const dg::Tensor& dy, Sum sum,
                   Transpose transpose) {
  f.batch = x.size(0);
  f.in = x.size(1);
  f.height = x.size(2);
  f.width = x.size(3);
  f.out = dy.size(1);
  const dg::Tensor features = dg::arranged(x, true), gradient = dg::arranged(dy, true);
  dg::Tensor dweight = dg::fresh(x, {f.out, f.in, 3, 3}, x.scalar_type(), true);
  f.x = static_cast<const T*>(features.const_data_ptr());
  f.dy = static_cast<const T*>(gradient.const_data_ptr());
  f.dweight = static_cast<T*>(dweight.mutable_data_ptr());
  if (!dweight.numel()) return dweight;
  const dg::Tensor sums = sum(f);  // to be kept until they are transposed
  parallel_for(0, dg::weights_units(f.in), 1,
               [&](int64_t begin, int64_t end) { transpose(f, begin, end); });
  return dweight;
}

dg::Tensor winograd_weights(const dg::Tensor& x, const dg::Tensor& dy) {
  STD_TORCH_CHECK(plain(x, dy) && x.size(0) == dy.size(0) && x.size(2) == dy.size(2) &&
                      x.size(3) == dy.size(3),
                  "defectgen: winograd_weights: features and gradients of one size and dtype; got ",
                  told(x), " and ", told(dy));
  const dg::DType d = dg::kind(x);
  const auto sum = [&](dg::WinogradWeights& f) {
    const dg::WinogradScratch scratch = dg::winograd_scratch(d, f);
    dg::Tensor sums = sums_for(x, scratch.sums), points = sums_for(x, scratch.points);
    f.sums = static_cast<float*>(sums.mutable_data_ptr());
    f.points = points.mutable_data_ptr();
    if (!scratch.chunks) std::fill_n(f.sums, scratch.sums, 0.0f);
    if (scratch.parts > 1) {
      parallel_for(0, scratch.parts, 1,
                   [&](int64_t begin, int64_t end) { dg::winograd_parts(d, f, begin, end); });
      return sums;
    }
    for (int64_t index = 0; index < scratch.chunks; ++index) {
      parallel_for(0, scratch.transform_units, 1, [&](int64_t begin, int64_t end) {
        dg::winograd_tiles(d, f, index, begin, end);
      });
      parallel_for(0, scratch.product_units, 1, [&](int64_t begin, int64_t end) {
        dg::winograd_sums(d, f, index, begin, end);
      });
    }
    return sums;
  };
  const auto transpose = [&](const dg::WinogradWeights& f, int64_t begin, int64_t end) {
    dg::winograd_weights(d, f, begin, end);
  };
  return weights<void>(dg::WinogradWeights(), x, dy, sum, transpose);
}

dg::Tensor strided_weights(const dg::Tensor& x, const dg::Tensor& dy, int64_t stride) {
  STD_TORCH_CHECK(plain(x, dy) && dg::kind(x) == dg::DType::f32 && x.size(0) == dy.size(0) &&
                      stride > 0 && (dy.size(2) - 1) * stride + 3 <= x.size(2) &&
                      (dy.size(3) - 1) * stride + 3 <= x.size(3),
                  "defectgen: strided_weights: float32 features and gradients that fit them; got ",
                  told(x), ", ", told(dy), " and stride ", stride);
  dg::StridedWeights f;
  f.rows = dy.size(2);
  f.columns = dy.size(3);
  f.stride = stride;
  const auto sum = [&](dg::StridedWeights& f) {
    dg::Tensor sums = sums_for(x, dg::strided_sums_size(f));
    f.sums = static_cast<float*>(sums.mutable_data_ptr());
    parallel_for(0, dg::strided_sums_units(f), 1,
                 [&](int64_t begin, int64_t end) { dg::strided_sums(f, begin, end); });
    return sums;
  };
  return weights<float>(f, x, dy, sum, dg::strided_weights);
}

}  // namespace

DG_REGISTER(CPU, Cpu)
STABLE_TORCH_LIBRARY_IMPL(defectgen, CPU, m) {
  m.impl("winograd", TORCH_BOX(&winograd));
  m.impl("winograd_weights", TORCH_BOX(&winograd_weights));
  m.impl("strided_weights", TORCH_BOX(&strided_weights));
}
