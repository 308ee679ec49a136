// Arithmetic of bias_act: y = clamp(act(x * scale + noise + bias) * gain), at one point.
#pragma once

#include "hd.h"

namespace dg {

// slope: of the activation for negative input, 1 for linear. gain: positive. clamp: negative = none.
template <typename A>
struct Curve {
  A slope, gain, clamp;
};

// Of any struct that holds the three numbers.
template <typename A, typename S>
DG_HD Curve<A> curve_of(const S& s) {
  return {static_cast<A>(s.slope), static_cast<A>(s.gain), static_cast<A>(s.clamp)};
}

// u -> clamp(act(u) * gain), of a number or, on the CPU, of a vector of them. Comparisons are written
// so that NaN falls through all of them.
template <typename A, typename V>
DG_HD V curve(const Curve<A>& c, V u) {
  V y = (u < A(0) ? u * c.slope : u) * c.gain;
  if (c.clamp >= A(0)) {
    const V high = V{} + c.clamp, low = V{} - c.clamp;
    y = y > high ? high : y;
    y = y < low ? low : y;
  }
  return y;
}

// Derivative of the curve, told from its value: the gain is positive, so y has the sign of u.
// A value at the clamp counts as clamped; zero counts as negative, as in torch's leaky_relu.
template <typename A, typename V>
DG_HD V curve_slope(const Curve<A>& c, V y) {
  const V above = V{} + c.gain, below = V{} + c.slope * c.gain;
  V k = y > A(0) ? above : below;
  // Written so that NaN counts as clamped, as in torch's clamp.
  if (c.clamp >= A(0)) {
    k = y < c.clamp ? k : V{};
    k = y > -c.clamp ? k : V{};
  }
  return k;
}

// What every call of the op knows. Null pointers leave their term out.
// Features are (batch, channels, pixels), or (batch, pixels, channels) with channels_last.
struct BiasActShape {
  int64_t batch, channels, pixels;
  bool channels_last;
  double slope, gain, clamp;
};

// Forward: out = curve(x * scale + noise + bias) * post.
struct BiasActForward {
  BiasActShape shape;
  const void* x;      // features
  const void* scale;  // (batch, channels), accumulation type, as all below
  const void* noise;  // (batch, pixels)
  const void* bias;   // (channels)
  const void* post;   // (batch, channels)
  void* out;          // features
};

// Tangent: out = curve'(y) * (a * scale + x * dscale + dnoise + dbias): how y moves when x moves by
// a, scale by dscale, and so on. It is also what differentiating the backward pass needs.
struct BiasActTangent {
  BiasActShape shape;
  const void* y;       // features, the output of the forward pass
  const void* a;       // features
  const void* scale;   // (batch, channels)
  const void* x;       // features
  const void* dscale;  // (batch, channels)
  const void* dnoise;  // (batch, pixels)
  const void* dbias;   // (batch, channels)
  void* out;           // features
};

// Backward, with du = dy * curve'(y): dx = du * scale, and sums of du over everything else.
struct BiasActBackward {
  BiasActShape shape;
  const void* dy;     // features
  const void* y;      // features
  const void* x;      // features, needed for dots
  const void* scale;  // (batch, channels)
  void* dx;           // features
  void* sums;         // (batch, channels): sum of du over pixels
  void* dots;         // (batch, channels): sum of du * x over pixels
  void* dnoise;       // (batch, pixels): sum of du over channels
};

}  // namespace dg
