// Binding of the CPU kernels: work is split over torch's own threads.
#include "bind.h"
#include "cpu.h"

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

}  // namespace

DG_REGISTER(CPU, Cpu)
