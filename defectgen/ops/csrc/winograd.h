// What Winograd's convolutions on the CPU share: tiles, and their transforms. Tiles are transformed,
// their points multiplied as matrices, and the products transformed back; a tile's numbers depend on
// nothing but the tile.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu.h"
#include "gemm.h"

namespace dg {

// Planes a multiple of 4096 bytes apart would all want the same lines of the cache.
constexpr int64_t kApart = 16;

// The tiles of a batch in order, and where the pixels of one lie.
template <int kTile>
struct Tiles {
  int64_t height, width, down, across, count;
  template <typename Shape>
  explicit Tiles(const Shape& s)
      : height(s.height),
        width(s.width),
        down((height + kTile - 1) / kTile),
        across((width + kTile - 1) / kTile),
        count(s.batch * down * across) {}
  int64_t blocks(int64_t size) const { return (count + size - 1) / size; }
  // The size x size pixels of which the first lies `before` above and left of the tile; `beyond`
  // where there are none.
  template <typename Number>
  void pixels(int64_t tile, int size, int before, Number* base, int64_t channels, Number* beyond,
              Number** found) const {
    const int64_t n = tile / (down * across);
    const int64_t top = tile / across % down * kTile - before;
    const int64_t left = tile % across * kTile - before;
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) {
        const int64_t row = top + i, column = left + j;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        const int64_t at = ((n * height + row) * width + column) * channels;
        found[i * size + j] = inside ? base + at : beyond;
      }
  }
};

// One direction, for tiles of two pixels: the points are 0, 1, -1, and infinity. No pixel of
// a tile has a product with one that none of its taps reaches, so not even its rounding depends on it.
struct Two {
  static constexpr int kTile = 2, kPoints = 4;
  static constexpr int kBlock = 48;  // tiles of a block
  // B^T d: coefficients of the products of (x - point) over the other points.
  template <typename V>
  static void image(const V* d, V* t) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  }
  // G g: a filter of three or two taps at the points, over the product of their distances.
  template <int kTaps = 3, typename V>
  static void filter(const V* g, V* t) {
    V even = g[0];
    if constexpr (kTaps == 3) even += g[2];
    t[0] = g[0];
    t[1] = 0.5f * (even + g[1]);
    t[2] = 0.5f * (even - g[1]);
    t[3] = g[kTaps - 1];
  }
  // A^T m: the pixels of a tile of a product at the points; two results, or three: the taps.
  template <int kResults = 2, typename V>
  static void result(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2];
    if constexpr (kResults == 3) y[2] = m[1] + m[2];
    y[kResults - 1] -= m[3];
  }
};

// The same for tiles of four: 0, a, -a, b, -b, and infinity, with a = sqrt(1/2) and b = sqrt(2):
// a b = 1, so that rows need few products, and numbers of the transforms stay small.
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
struct Four {
  static constexpr int kTile = 4, kPoints = 6;
  static constexpr int kBlock = 24;
  template <typename V>
  static void image(const V* d, V* t) {
    const V even_a = d[4] - 2.0f * d[2], odd_a = kA * (d[3] - 2.0f * d[1]);
    const V even_b = d[4] - 0.5f * d[2], odd_b = kB * (d[3] - 0.5f * d[1]);
    t[0] = d[0] - 2.5f * d[2] + d[4];
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = d[1] - 2.5f * d[3] + d[5];
  }
  // Of three or four taps.
  template <int kTaps = 3, typename V>
  static void filter(const V* g, V* t) {
    V odd_a = g[1], odd_b = g[1];
    if constexpr (kTaps == 4) odd_a += 0.5f * g[3], odd_b += 2.0f * g[3];
    const V even_a = (-2.0f / 3) * (g[0] + 0.5f * g[2]), even_b = (1.0f / 6) * (g[0] + 2.0f * g[2]);
    odd_a *= -2.0f / 3 * kA, odd_b *= 1.0f / 6 * kB;
    t[0] = g[0];
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = g[kTaps - 1];
  }
  // Four results, or three: the taps.
  template <int kResults = 4, typename V>
  static void result(const V* m, V* y) {
    const V even_a = m[1] + m[2], odd_a = kA * (m[1] - m[2]);
    const V even_b = m[3] + m[4], odd_b = kB * (m[3] - m[4]);
    y[0] = m[0] + even_a + even_b;
    y[1] = odd_a + odd_b;
    y[2] = 0.5f * even_a + 2.0f * even_b;
    if constexpr (kResults == 4) y[3] = 0.5f * odd_a + 2.0f * odd_b;
    y[kResults - 1] += m[5];
  }
};

// Both directions: kIn x kIn numbers, taken by get(row, column), become kOut x kOut for put.
template <int kIn, int kOut, typename V, typename Line, typename Get, typename Put>
inline void both_ways(Line line, Get get, Put put) {
  V t[kOut][kIn];
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    V from[kIn], to[kOut];
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) from[i] = get(i, j);
    line(from, to);
#pragma GCC unroll 6
    for (int i = 0; i < kOut; ++i) t[i][j] = to[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kOut; ++i) {
    V to[kOut];
    line(t[i], to);
#pragma GCC unroll 6
    for (int j = 0; j < kOut; ++j) put(i, j, to[j]);
  }
}

}  // namespace dg
