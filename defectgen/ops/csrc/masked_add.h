// Arithmetic of masked_add: logits upsampled on the fly, the step, the slope of its surrogate.
#pragma once

#include <math.h>

#include "hd.h"

namespace dg {

// Upsampling along one axis as a table: output o is the sum of weights[o][j] * in[first[o] + j].
constexpr int kTableTaps = 4;

template <typename A>
DG_HD A upsampled(const A* logits, int64_t width, const int32_t* first_row, const A* row_weights,
                  const int32_t* first_column, const A* column_weights, int64_t row,
                  int64_t column) {
  // Rows first, then columns, in the order of the table: one order on every device.
  A total = A(0);
  const A* corner = logits + first_row[row] * width + first_column[column];
  const A* by_row = row_weights + row * kTableTaps;
  const A* by_column = column_weights + column * kTableTaps;
  for (int j = 0; j < kTableTaps; ++j) {
    if (by_column[j] == A(0)) continue;
    A line = A(0);
    for (int i = 0; i < kTableTaps; ++i) {
      if (by_row[i] != A(0)) line += by_row[i] * corner[i * width + j];
    }
    total += by_column[j] * line;
  }
  return total;
}

DG_HD float exponential(float x) { return ::expf(x); }
DG_HD double exponential(double x) { return ::exp(x); }

// Slope of sigmoid(k * m).
template <typename A>
DG_HD A surrogate_slope(A m, A steepness) {
  A e = exponential(-steepness * (m < A(0) ? -m : m));
  return steepness * e / ((A(1) + e) * (A(1) + e));
}

struct MaskedAdd {
  int64_t batch, channels, height, width, small_height, small_width;
  bool channels_last;
  const void* x;                // features
  const void* residual;         // features
  const void* logits;           // (batch, small_height, small_width), accumulation type
  const int32_t* first_row;     // (height)
  const void* row_weights;      // (height, kTableTaps)
  const int32_t* first_column;  // (width)
  const void* column_weights;   // (width, kTableTaps)
  const uint8_t* within;        // (batch, height, width) or null
  void* out;                    // features
  void* level;                  // (batch, height, width): the upsampled logits
  uint8_t* gate;                // (batch, height, width)
};

struct MaskedAddBackward {
  int64_t batch, channels, pixels;
  bool channels_last;
  const void* dy;         // features
  const uint8_t* gate;    // (batch, pixels)
  void* dresidual;        // features, dy * gate
  const void* residual;   // features, or null where the logits get no gradient
  const void* level;      // (batch, pixels), accumulation type
  const uint8_t* within;  // (batch, pixels) or null
  double steepness;
  void* dlevel;           // (batch, pixels): sum over channels of dy * residual * slope
};

}  // namespace dg
