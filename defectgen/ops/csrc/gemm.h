// What the CPU's own products of matrices share: a block of numbers that is held in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace dg {

// kRows x kWide numbers: two vectors per row, and as many rows as there are registers for.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6;
#else
constexpr int kLanes = 4, kRows = 6;
#endif
constexpr int kWide = 2 * kLanes;
// Input channels whose sums over pixels are held at a time, at most; a multiple of kRows.
constexpr int kGroup = 96;
// Input channels of weights that are transposed at a time.
constexpr int kStrip = 16;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

inline Vector read(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void write(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

inline int64_t up_to(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Groups of input channels, as equal as kRows allows, and the channels of one.
inline int64_t group_size(int64_t in) {
  const int64_t groups = std::max<int64_t>(1, up_to(in, kGroup) / kGroup);
  return std::max<int64_t>(kRows, up_to((in + groups - 1) / groups, kRows));
}
inline int64_t groups_of(int64_t in) { return up_to(in, group_size(in)) / group_size(in); }

// Sums over so many blocks are made in this many parts, whatever the number of threads, so that they
// have one order: eight blocks at least, and a scratch of 64 MiB at most unless one part needs more.
inline int64_t parts_for(int64_t blocks, int64_t numbers_per_part) {
  const int64_t room = (int64_t(1) << 24) / std::max<int64_t>(1, numbers_per_part);
  return std::max<int64_t>(1, std::min<int64_t>({16, blocks / 8, room}));
}

// Units of transpose_weights below.
inline int64_t weights_units(int64_t in) { return up_to(in, kStrip) / kStrip; }

// c = [c +] sum over i of a(i, row) * b(i, column), for kRows rows and kWide columns.
template <bool kAdd>
inline void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                     int64_t count, float* c, int64_t c_row) {
  Vector sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = kAdd ? read(c + r * c_row) : Vector{};
    sum[r][1] = kAdd ? read(c + r * c_row + kLanes) : Vector{};
  }
  for (int64_t i = 0; i < count; ++i, a += a_step, b += b_step) {
    const Vector left = read(b), right = read(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] += a[r * a_row] * left;
      sum[r][1] += a[r * a_row] * right;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    write(c + r * c_row, sum[r][0]);
    write(c + r * c_row + kLanes, sum[r][1]);
  }
}

// Weights (out, 9, in) of sums (9, in, out), which come as vectors of output channels:
// taps_of(input channel, output channel, taps) gives nine. One unit are kStrip input channels.
template <typename Taps>
inline void transpose_weights(int64_t in, int64_t out, float* weights, int64_t begin, int64_t end,
                              Taps taps_of) {
  float strip[9][kWide][kStrip];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kStrip, ins = std::min<int64_t>(kStrip, in - first);
    for (int64_t o = 0; o < out; o += kWide) {
      for (int64_t i = 0; i < ins; ++i)
        for (int v = 0; v < kWide; v += kLanes) {
          Vector taps[9];
          taps_of(first + i, o + v, taps);
          for (int t = 0; t < 9; ++t)
            for (int lane = 0; lane < kLanes; ++lane) strip[t][v + lane][i] = taps[t][lane];
        }
      const int64_t outs = std::min<int64_t>(kWide, out - o);
      for (int64_t n = 0; n < outs; ++n)
        for (int t = 0; t < 9; ++t)
          std::memcpy(weights + ((o + n) * 9 + t) * in + first, strip[t][n], ins * sizeof(float));
    }
  }
}

}  // namespace dg
