// Arguments of the 3x3 convolutions that only the CPU has, features channels last. Winograd's minimal
// filtering: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4, with
// points of our own. In float, F(4x4, 3x3), and F(3x3, 4x4) for the gradient of the weights, take 36
// products per channel pair and tile of 4x4 pixels instead of 144. In bfloat16, whose transforms are
// rounded, F(2x2, 3x3) and F(3x3, 2x2) lose less, with 16 instead of 36. Sums are float.
#pragma once

#include <cstdint>

namespace dg {

// Stride 1, padding 1, float or bfloat16; `out` is as large as `x`. With `adjoint` the weights
// (in, 3, 3, out) are those of the convolution whose transpose this is, else (out, 3, 3, in). If
// `local`, tiles of floats have 2x2 pixels, too: more products, but no bit depends on pixels beyond
// the taps.
struct Winograd {
  int64_t batch, height, width, in, out;
  bool adjoint, local;
  const void *x, *weight;
  void* y;
  void* kernel;  // scratch: the transformed weights, no wider than float
};

// dweight (out, 3, 3, in) of y = conv(x, weight), from x and dy.
struct WinogradWeights {
  int64_t batch, height, width, in, out;
  const void *x, *dy;
  void* dweight;
  float* sums;   // scratch: sums of products at the points, of each part
  void* points;  // scratch: transformed tiles of a chunk, if there is one part
};

// dweight (out, 3, 3, in) of y = conv(x, weight) with a stride and no padding, from x and dy, in
// float. No transform; dy has rows x columns pixels.
struct StridedWeights {
  int64_t batch, height, width, in, rows, columns, out, stride;
  const float *x, *dy;
  float* dweight;
  float* sums;  // scratch: sums of each part of the pixels
};

}  // namespace dg
