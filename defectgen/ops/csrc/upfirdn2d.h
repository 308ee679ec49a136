// Arithmetic of upfirdn2d: which input meets which tap, along one axis.
#pragma once

#include "bias_act.h"
#include "hd.h"

namespace dg {

// Of one axis: output o takes taps k with (o * down + k - pad) divisible by up, inside the input.
// Taps are given in correlation order (already turned round for a convolution).
struct Axis {
  int64_t in, out;
  int up, down, pad, taps;
};

// First tap that meets an input for output o, and the input it meets; further ones follow in steps
// of (up taps, 1 input). count is how many there are.
DG_HD void axis_taps(const Axis& axis, int64_t o, int* tap, int64_t* input, int* count) {
  int64_t start = o * axis.down - axis.pad;
  // Smallest k >= 0 with start + k >= 0 and divisible by up.
  int64_t k = start < 0 ? -start : (axis.up - start % axis.up) % axis.up;
  int64_t at = (start + k) / axis.up;
  int64_t left = axis.taps - k;
  int64_t fit = left > 0 ? (left + axis.up - 1) / axis.up : 0;
  int64_t room = axis.in - at;
  fit = fit < room ? fit : room;
  *tap = static_cast<int>(k);
  *input = at;
  *count = static_cast<int>(fit > 0 ? fit : 0);
}

struct UpFirDn {
  Axis rows, columns;
  int64_t batch, channels;
  bool channels_last;
  const void* x;     // features of the input size
  const void* taps;  // (taps), accumulation type, correlation order, times the root of the gain
  void* out;         // features of the output size
  // Epilogue: out = curve(value * scale + noise + bias) * post where `epilogue` is set.
  bool epilogue;
  double slope, gain, clamp;
  const void* scale;  // (batch, channels)
  const void* noise;  // (batch, rows.out * columns.out)
  const void* bias;   // (channels)
  const void* post;   // (batch, channels)
};

}  // namespace dg
