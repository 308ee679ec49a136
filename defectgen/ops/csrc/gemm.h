// What the CPU's own products of matrices share: a block of numbers that is held in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "hd.h"
#include "vectors.h"

namespace dg {

// kRows x kWide numbers: two vectors per row, and as many rows as there are registers for.
constexpr int kRows = kLanes == 16 ? 12 : 6;
constexpr int kWide = 2 * kLanes;
// Input channels whose sums over pixels are held at a time, at most; a multiple of kRows.
constexpr int kGroup = 96;
// Input channels of weights that are transposed at a time.
constexpr int kStrip = 16;

// Numbers in products: as many as one instruction multiplies and adds lie side by side.
template <typename N>
struct Factors {
  static constexpr int kPair = 1;
  using Wide = Vector;
  static Wide at(const float* from) { return read(from); }
  static void add(Vector& sum, const float* one, Wide many) { sum += *one * many; }
  // kPair rows of factors side by side.
  static void pack(float* to, const Vector* rows) { write(to, rows[0]); }
  static void pack(float* to, const float* rows) { *to = rows[0]; }
};
#ifdef __AVX512BF16__
template <>
struct Factors<BFloat16> {
  static constexpr int kPair = 2;
  using Wide = __m512bh;
  static Wide at(const BFloat16* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static void add(Vector& sum, const BFloat16* one, Wide many) {
    int32_t pair;
    std::memcpy(&pair, one, sizeof(pair));
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), many);
  }
  static void pack(BFloat16* to, const Vector* rows) {
    const Bits first = widened(rows[0]), second = widened(rows[1]) << 16;
    const Bits both = first | second;
    std::memcpy(to, &both, sizeof(both));
  }
  static void pack(BFloat16* to, const float* rows) {
    to[0] = store<BFloat16>(rows[0]);
    to[1] = store<BFloat16>(rows[1]);
  }
  static Bits widened(Vector v) {
    Halves rounded;
    write(reinterpret_cast<BFloat16*>(&rounded), v);
    return __builtin_convertvector(rounded, Bits);
  }
};
// What features of this type are multiplied as.
template <typename T>
using Inner = T;
#else
template <typename T>
using Inner = float;
#endif

// body(number) with a number of the type that features have: bfloat16, or else float.
template <typename Body>
inline void of_features(DType d, Body body) {
  d == DType::bf16 ? body(BFloat16{}) : body(float{});
}

inline int64_t up_to(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Groups of input channels, as equal as kRows allows, and the channels of one.
inline int64_t group_size(int64_t in) {
  const int64_t groups = std::max<int64_t>(1, up_to(in, kGroup) / kGroup);
  return std::max<int64_t>(kRows, up_to((in + groups - 1) / groups, kRows));
}
inline int64_t groups_of(int64_t in) { return up_to(in, group_size(in)) / group_size(in); }

// Units of transpose_weights below.
inline int64_t weights_units(int64_t in) { return up_to(in, kStrip) / kStrip; }

// c = [c +] sum over i of a(i, row) * b(i, column), for kRows rows and kWide columns; kPair of the
// i lie side by side, and count is the number of pairs.
template <bool kAdd, typename N>
inline void multiply(const N* a, int64_t a_row, int64_t a_step, const N* b, int64_t b_step,
                     int64_t count, float* c, int64_t c_row) {
  using F = Factors<N>;
  Vector sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Vector{};
  for (int64_t i = 0; i < count; ++i, a += a_step, b += b_step) {
    const auto left = F::at(b), right = F::at(b + kLanes * F::kPair);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      F::add(sum[r][0], a + r * a_row, left);
      F::add(sum[r][1], a + r * a_row, right);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    // Added last: many short sums are more exact than a long one.
    float* row = c + r * c_row;
    write(row, kAdd ? read(row) + sum[r][0] : sum[r][0]);
    write(row + kLanes, kAdd ? read(row + kLanes) + sum[r][1] : sum[r][1]);
  }
}

// Weights (out, 9, in) of sums (9, in, out), which come as vectors of output channels:
// taps_of(input channel, output channel, taps) gives nine. One unit are kStrip input channels.
template <typename T, typename Taps>
inline void transpose_weights(int64_t in, int64_t out, T* weights, int64_t begin, int64_t end,
                              Taps taps_of) {
  T strip[9][kWide][kStrip];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kStrip, ins = std::min<int64_t>(kStrip, in - first);
    for (int64_t o = 0; o < out; o += kWide) {
      const int64_t outs = std::min<int64_t>(kWide, out - o);
      for (int64_t i = 0; i < ins; ++i)
        for (int v = 0; v < kWide; v += kLanes) {
          Vector taps[9];
          taps_of(first + i, o + v, taps);
          for (int t = 0; t < 9; ++t)
            for (int lane = 0; lane < kLanes && v + lane < outs; ++lane)
              strip[t][v + lane][i] = store<T>(taps[t][lane]);
        }
      for (int64_t n = 0; n < outs; ++n)
        for (int t = 0; t < 9; ++t)
          std::memcpy(weights + ((o + n) * 9 + t) * in + first, strip[t][n], ins * sizeof(T));
    }
  }
}

}  // namespace dg
