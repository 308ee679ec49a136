// Winograd convolutions on the CPU. Tiles are taken in blocks: their patches are transformed, the
// points of a block are matrix products, and what comes out is transformed back while it is still in
// the cache. A tile's numbers depend on nothing but the tile.
#include <memory>
#include <vector>

#include "cpu.h"
#include "gemm.h"

namespace dg {
namespace {

// Planes a multiple of 4096 bytes apart would all want the same lines of the cache.
constexpr int64_t kApart = 16;

// body(read, write, c) for vectors of channels, then for the numbers that are left.
template <typename Body>
inline void each_channel(int64_t channels, Body body) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes)
    body([](const float* p) { return read(p); }, [](float* p, Vector v) { write(p, v); }, c);
  for (; c < channels; ++c)
    body([](const float* p) { return *p; }, [](float* p, float v) { *p = v; }, c);
}

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

// One direction, for tiles of two pixels: the points are 0, 1, -1, and infinity. No result has a
// product with a pixel that none of its taps reaches, so not even its rounding depends on one.
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
  // G g: a filter at the points, over the product of their distances.
  template <typename V>
  static void filter(const V* g, V* t) {
    t[0] = g[0];
    t[1] = 0.5f * (g[0] + g[2] + g[1]);
    t[2] = 0.5f * (g[0] + g[2] - g[1]);
    t[3] = g[2];
  }
  // A^T m: the pixels of a tile of a product at the points.
  template <typename V>
  static void result(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

// The same for tiles of four: 0, a, -a, b, -b, and infinity, with a = sqrt(1/2) and b = sqrt(2):
// a b = 1, so that rows need few products, and numbers of the transforms stay small.
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
struct Four {
  static constexpr int kTile = 4, kPoints = 6;
  static constexpr int kBlock = 24;
  static constexpr int kSummed = 48;  // tiles of a block whose products are summed
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
static_assert(Two::kBlock % kRows == 0 && Four::kBlock % kRows == 0,
              "rows beyond the last tile are computed, too");

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

// B^T d B of a patch.
template <typename S>
void transform_input(const float* const* from, int64_t channels, float* to, int64_t plane) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    using V = decltype(get(to));
    both_ways<S::kPoints, S::kPoints, V>(
        [](const V* d, V* t) { S::image(d, t); },
        [&](int i, int j) { return get(from[S::kPoints * i + j] + c); },
        [&](int i, int j, V v) { put(to + (S::kPoints * i + j) * plane + c, v); });
  });
}

// A^T m A: the pixels of a tile, as far as there are any.
template <typename S>
void transform_output(const float* from, int64_t plane, int64_t channels, float* const* to) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    using V = decltype(get(from));
    both_ways<S::kPoints, S::kTile, V>(
        [](const V* m, V* y) { S::result(m, y); },
        [&](int i, int j) { return get(from + (S::kPoints * i + j) * plane + c); },
        [&](int i, int j, V v) {
          if (float* pixel = to[S::kTile * i + j]) put(pixel + c, v);
        });
  });
}

// G d G^T of the gradient of a tile, which is the filter when weights are sought.
void transform_gradient(const float* const* from, int64_t channels, float* to, int64_t plane) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    using V = decltype(get(to));
    both_ways<Four::kTile, Four::kPoints, V>(
        [](const V* g, V* t) { Four::filter<Four::kTile>(g, t); },
        [&](int i, int j) { return get(from[Four::kTile * i + j] + c); },
        [&](int i, int j, V v) { put(to + (Four::kPoints * i + j) * plane + c, v); });
  });
}

// The taps of kStrip input channels and kWide output channels, the latter side by side.
void transposed_taps(const Winograd& f, int64_t panel, int64_t first,
                     float taps[9][kStrip][kWide]) {
  const int64_t ins = std::min<int64_t>(kStrip, f.in - first);
  const int64_t outs = std::min<int64_t>(kWide, f.out - panel * kWide);
  std::memset(taps, 0, sizeof(float) * 9 * kStrip * kWide);
  for (int t = 0; t < 9; ++t) {
    if (f.adjoint) {  // turned by 180 degrees
      for (int64_t i = 0; i < ins; ++i)
        std::memcpy(taps[8 - t][i], f.weight + ((first + i) * 9 + t) * f.out + panel * kWide,
                    outs * sizeof(float));
    } else {
      for (int64_t o = 0; o < outs; ++o) {
        const float* from = f.weight + ((panel * kWide + o) * 9 + t) * f.in + first;
        for (int64_t i = 0; i < ins; ++i) taps[t][i][o] = from[i];
      }
    }
  }
}

// -- forward, and the gradient of the features -----------------------------------------------------

// G w G^T; one unit is a panel of kWide output channels. Lies (points, panels, in, kWide).
template <typename S>
void transform_kernel(const Winograd& f, int64_t begin, int64_t end) {
  const int64_t plane = f.in * up_to(f.out, kWide);
  const auto taps = std::make_unique<float[][kStrip][kWide]>(9);
  for (int64_t panel = begin; panel < end; ++panel)
    for (int64_t first = 0; first < f.in; first += kStrip) {
      transposed_taps(f, panel, first, taps.get());
      const int64_t ins = std::min<int64_t>(kStrip, f.in - first);
      for (int64_t i = 0; i < ins; ++i)
        for (int v = 0; v < kWide; v += kLanes) {
          float* to = f.kernel + (panel * f.in + first + i) * kWide + v;
          both_ways<3, S::kPoints, Vector>(
              [](const Vector* g, Vector* t) { S::filter(g, t); },
              [&](int k, int j) { return read(&taps[3 * k + j][i][v]); },
              [&](int k, int j, Vector value) { write(to + (S::kPoints * k + j) * plane, value); });
        }
    }
}

// One unit is a block of tiles.
template <typename S>
void convolve(const Winograd& f, int64_t begin, int64_t end) {
  constexpr int kBlock = S::kBlock, kPatch = S::kPoints * S::kPoints;
  const Tiles<S::kTile> tiles(f);
  const int64_t wide = up_to(f.out, kWide);
  const int64_t in_plane = kBlock * f.in + kApart, out_plane = kBlock * wide + kApart;
  std::vector<float> zeros(f.in), in(kPatch * in_plane), out(kPatch * out_plane);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock;
    const int64_t count = std::min<int64_t>(kBlock, tiles.count - first);
    for (int64_t t = 0; t < count; ++t) {
      const float* patch[kPatch];
      tiles.template pixels<const float>(first + t, S::kPoints, 1, f.x, f.in, zeros.data(), patch);
      transform_input<S>(patch, f.in, in.data() + t * f.in, in_plane);
    }
    for (int p = 0; p < kPatch; ++p)
      for (int64_t o = 0; o < wide; o += kWide) {
        const float* kernel = f.kernel + (p * wide + o) * f.in;
        // Rows beyond the last tile are old or zero, and nobody reads what becomes of them.
        for (int64_t t = 0; t < count; t += kRows)
          multiply<false>(in.data() + p * in_plane + t * f.in, f.in, 1, kernel, kWide, f.in,
                          out.data() + p * out_plane + t * wide + o, wide);
      }
    for (int64_t t = 0; t < count; ++t) {
      float* pixels[S::kTile * S::kTile];
      tiles.template pixels<float>(first + t, S::kTile, 0, f.y, f.out, nullptr, pixels);
      transform_output<S>(out.data() + t * wide, out_plane, f.out, pixels);
    }
  }
}

}  // namespace

int64_t winograd_kernel_units(const Winograd& f) { return up_to(f.out, kWide) / kWide; }
int64_t winograd_kernel_size(const Winograd& f) {
  const int64_t points = f.local ? Two::kPoints : Four::kPoints;
  return points * points * f.in * up_to(f.out, kWide);
}
void winograd_kernel(const Winograd& f, int64_t begin, int64_t end) {
  f.local ? transform_kernel<Two>(f, begin, end) : transform_kernel<Four>(f, begin, end);
}
int64_t winograd_units(const Winograd& f) {
  return f.local ? Tiles<Two::kTile>(f).blocks(Two::kBlock)
                 : Tiles<Four::kTile>(f).blocks(Four::kBlock);
}
void winograd(const Winograd& f, int64_t begin, int64_t end) {
  f.local ? convolve<Two>(f, begin, end) : convolve<Four>(f, begin, end);
}

// -- the gradient of the weights -------------------------------------------------------------------

namespace {

constexpr int kSummed = Four::kSummed, kPatch = Four::kPoints * Four::kPoints;

// Sums of a part, and how many parts there are.
int64_t sums_of(const WinogradWeights& f) {
  return kPatch * up_to(f.in, kRows) * up_to(f.out, kWide);
}
int64_t parts_of(const WinogradWeights& f) {
  return parts_for(Tiles<Four::kTile>(f).blocks(kSummed), sums_of(f));
}

}  // namespace

int64_t winograd_sums_size(const WinogradWeights& f) {
  return parts_of(f) * sums_of(f);
}
int64_t winograd_sums_units(const WinogradWeights& f) { return parts_of(f) * groups_of(f.in); }

// One unit is a group of input channels in a part of the tiles. Lies (parts, kPatch, in, out).
void winograd_sums(const WinogradWeights& f, int64_t begin, int64_t end) {
  const Tiles<Four::kTile> tiles(f);
  const int64_t wide = up_to(f.out, kWide), high = up_to(f.in, kRows), parts = parts_of(f);
  const int64_t y_plane = kSummed * wide + kApart;
  std::vector<float> zeros(std::max(f.in, f.out)), dy(kPatch * y_plane), x;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t part = unit / groups_of(f.in), channel = unit % groups_of(f.in) * group_size(f.in);
    const int64_t channels = std::min(group_size(f.in), f.in - channel);
    const int64_t rows = up_to(channels, kRows), x_plane = kSummed * rows + kApart;
    float* sums = f.sums + (part * kPatch * high + channel) * wide;
    for (int p = 0; p < kPatch; ++p) std::fill_n(sums + p * high * wide, rows * wide, 0.0f);
    x.assign(kPatch * x_plane, 0.0f);
    const int64_t last = tiles.blocks(kSummed) * (part + 1) / parts;
    for (int64_t block = tiles.blocks(kSummed) * part / parts; block < last; ++block) {
      const int64_t first = block * kSummed;
      const int64_t count = std::min<int64_t>(kSummed, tiles.count - first);
      for (int64_t t = 0; t < count; ++t) {
        const float* pixels[kPatch];
        tiles.pixels<const float>(first + t, Four::kPoints, 1, f.x, f.in, nullptr, pixels);
        for (auto& pixel : pixels) pixel = pixel ? pixel + channel : zeros.data();
        transform_input<Four>(pixels, channels, x.data() + t * rows, x_plane);
        tiles.pixels<const float>(first + t, Four::kTile, 0, f.dy, f.out, zeros.data(), pixels);
        transform_gradient(pixels, f.out, dy.data() + t * wide, y_plane);
      }
      for (int p = 0; p < kPatch; ++p)
        for (int64_t o = 0; o < wide; o += kWide)
          for (int64_t i = 0; i < rows; i += kRows)
            multiply<true>(x.data() + p * x_plane + i, 1, rows, dy.data() + p * y_plane + o, wide,
                           count, sums + (p * high + i) * wide + o, wide);
    }
  }
}

// A^T m A, 3x3.
void winograd_weights(const WinogradWeights& f, int64_t begin, int64_t end) {
  const int64_t wide = up_to(f.out, kWide), high = up_to(f.in, kRows), parts = parts_of(f);
  transpose_weights(f.in, f.out, f.dweight, begin, end, [&](int64_t i, int64_t o, Vector* taps) {
    Vector m[kPatch] = {};
    for (int64_t part = 0; part < parts; ++part)
      for (int p = 0; p < kPatch; ++p)
        m[p] += read(f.sums + ((part * kPatch + p) * high + i) * wide + o);
    both_ways<Four::kPoints, 3, Vector>([](const Vector* m, Vector* y) { Four::result<3>(m, y); },
                                  [&](int k, int j) { return m[Four::kPoints * k + j]; },
                                  [&](int k, int j, Vector value) { taps[3 * k + j] = value; });
  });
}

}  // namespace dg
