// Binding of the CUDA kernels: on the device of the features, on its current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "bind.h"
#include "launchers.h"

namespace {

// Makes a device the current one while kernels are launched on it.
class Launching {
 public:
  explicit Launching(const dg::Tensor& x) : device_(x.get_device_index()), guard_(device_) {
    void* found = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &found));
    stream = static_cast<cudaStream_t>(found);
  }
  void check(const char* op, cudaError_t error) const {
    STD_TORCH_CHECK(error == cudaSuccess, "defectgen: ", op, ": CUDA device ", device_,
                    " refused the kernel: ", cudaGetErrorString(error));
  }
  cudaStream_t stream;

 private:
  torch::stable::accelerator::DeviceIndex device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

struct Cuda {
  static void run(dg::DType d, const dg::BiasActForward& f, const dg::Tensor& x) {
    const Launching on(x);
    on.check("bias_act", dg::bias_act_forward(d, f, on.stream));
  }
  static void run(dg::DType d, const dg::BiasActTangent& f, const dg::Tensor& y) {
    const Launching on(y);
    on.check("bias_act_tangent", dg::bias_act_tangent(d, f, on.stream));
  }
  static void run(dg::DType d, const dg::BiasActBackward& f, const dg::Tensor& y) {
    const Launching on(y);
    // May be given back before the kernels have run: whoever gets it next is behind them in line.
    const dg::Tensor scratch = dg::fresh(y, {dg::bias_act_scratch(d, f)}, dg::exact(y));
    on.check("bias_act_backward",
             dg::bias_act_backward(d, f, scratch.mutable_data_ptr(), on.stream));
  }
  static void run(dg::DType d, const dg::UpFirDn& f, const dg::Tensor& x) {
    const Launching on(x);
    on.check("upfirdn2d", dg::upfirdn2d(d, f, on.stream));
  }
  static void run(dg::DType d, const dg::MaskedAdd& f, const dg::Tensor& x) {
    const Launching on(x);
    on.check("masked_add", dg::masked_add(d, f, on.stream));
  }
  static void run(dg::DType d, const dg::MaskedAddBackward& f, const dg::Tensor& dy) {
    const Launching on(dy);
    on.check("masked_add_backward", dg::masked_add_backward(d, f, on.stream));
  }
};

}  // namespace

DG_REGISTER(CUDA, Cuda)
