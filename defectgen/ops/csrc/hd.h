// Host and device: number types and index arithmetic that every op's header builds on.
// No torch header here or in any *.h beside it: the CPU and the CUDA file of an op include the same
// arithmetic, so that the CPU build proves the formulas of the GPU on a machine without one.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define DG_HD __host__ __device__ __forceinline__
#else
#define DG_HD inline __attribute__((always_inline))
#endif

namespace dg {

// Kinds of numbers a kernel can be asked for; the bindings translate torch's dtypes to these.
enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

// bfloat16 as its bits: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__
using Half = __half;
#else
using Half = _Float16;
#endif

// Sums and small tensors (scales, biases, taps) are float, or double for double features.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using Acc = typename Accumulate<T>::type;

DG_HD float load(float x) { return x; }
DG_HD double load(double x) { return x; }
DG_HD float load(BFloat16 x) {
  uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float result;
  memcpy(&result, &wide, sizeof(result));
  return result;
}
DG_HD float load(Half x) {
#ifdef __CUDACC__
  return __half2float(x);
#else
  return static_cast<float>(x);
#endif
}

template <typename T>
DG_HD T store(Acc<T> x) {
  return x;
}
// To nearest, ties to even. A NaN keeps its sign and becomes quiet; adding would make it infinite.
template <>
DG_HD BFloat16 store<BFloat16>(float x) {
  uint32_t wide;
  memcpy(&wide, &x, sizeof(wide));
  uint32_t rounded = wide + 0x7fffu + ((wide >> 16) & 1u);
  uint32_t quiet = wide | 0x00400000u;
  BFloat16 result;
  result.bits = static_cast<uint16_t>((x == x ? rounded : quiet) >> 16);
  return result;
}
template <>
DG_HD Half store<Half>(float x) {
#ifdef __CUDACC__
  return __float2half_rn(x);
#else
  return static_cast<Half>(x);
#endif
}

}  // namespace dg

// Call BODY with `T` bound to the C++ type of a dg::DType.
#define DG_DISPATCH(DTYPE, ...)         \
  switch (DTYPE) {                      \
    case dg::DType::f32: {              \
      using T = float;                  \
      __VA_ARGS__;                      \
      break;                            \
    }                                   \
    case dg::DType::f64: {              \
      using T = double;                 \
      __VA_ARGS__;                      \
      break;                            \
    }                                   \
    case dg::DType::f16: {              \
      using T = dg::Half;               \
      __VA_ARGS__;                      \
      break;                            \
    }                                   \
    case dg::DType::bf16: {             \
      using T = dg::BFloat16;           \
      __VA_ARGS__;                      \
      break;                            \
    }                                   \
  }
