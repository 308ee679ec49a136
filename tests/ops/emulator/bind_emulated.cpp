// Registers the emulated CUDA kernels as those of the CPU.
#include "bind.h"
#include "launchers.h"

namespace {

void check(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "emulator: error ", error); }

struct Emulated {
  static void run(dg::DType d, const dg::BiasActForward& f, const dg::Tensor&) {
    check(dg::bias_act_forward(d, f, nullptr));
  }
  static void run(dg::DType d, const dg::BiasActTangent& f, const dg::Tensor&) {
    check(dg::bias_act_tangent(d, f, nullptr));
  }
  static void run(dg::DType d, const dg::BiasActBackward& f, const dg::Tensor& y) {
    const dg::Tensor scratch = dg::fresh(y, {dg::bias_act_scratch(d, f)}, dg::exact(y));
    check(dg::bias_act_backward(d, f, scratch.mutable_data_ptr(), nullptr));
  }
  static void run(dg::DType d, const dg::UpFirDn& f, const dg::Tensor&) {
    check(dg::upfirdn2d(d, f, nullptr));
  }
  static void run(dg::DType d, const dg::MaskedAdd& f, const dg::Tensor&) {
    check(dg::masked_add(d, f, nullptr));
  }
  static void run(dg::DType d, const dg::MaskedAddBackward& f, const dg::Tensor&) {
    check(dg::masked_add_backward(d, f, nullptr));
  }
};

}  // namespace

DG_REGISTER(CPU, Emulated)
