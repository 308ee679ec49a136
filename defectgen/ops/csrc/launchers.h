// What the CUDA files offer to bind_cuda.cpp; a plain C++ compiler can read it. Each launcher
// queues its kernels on a stream of the current device and returns what the driver says to that.
#pragma once

#include <cuda_runtime_api.h>

#include "bias_act.h"
#include "masked_add.h"
#include "upfirdn2d.h"

namespace dg {

cudaError_t bias_act_forward(DType d, const BiasActForward& f, cudaStream_t stream);
cudaError_t bias_act_tangent(DType d, const BiasActTangent& f, cudaStream_t stream);
// `scratch` holds as many numbers of the accumulation type as bias_act_scratch says.
int64_t bias_act_scratch(DType d, const BiasActBackward& f);
cudaError_t bias_act_backward(DType d, const BiasActBackward& f, void* scratch,
                              cudaStream_t stream);

cudaError_t upfirdn2d(DType d, const UpFirDn& f, cudaStream_t stream);

cudaError_t masked_add(DType d, const MaskedAdd& f, cudaStream_t stream);
cudaError_t masked_add_backward(DType d, const MaskedAddBackward& f, cudaStream_t stream);

}  // namespace dg
