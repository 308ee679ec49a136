// Winograd convolutions on the CPU, forward and for the gradient of the features. Tiles are taken in
// blocks, small enough for what they become to stay in the cache.
#include <memory>
#include <vector>

#include "winograd.h"

namespace dg {
namespace {

static_assert(Two::kBlock % kRows == 0 && Four::kBlock % kRows == 0,
              "rows beyond the last tile are computed, too");

// B^T d B of a patch.
template <typename S, typename T, typename N>
void transform_input(const T* const* from, int64_t channels, N* to, int64_t plane) {
  each_channel<T>(channels, [&](auto get, auto put, int64_t c) {
    using V = decltype(get(to));
    both_ways<S::kPoints, S::kPoints, V>(
        [](const V* d, V* t) { S::image(d, t); },
        [&](int i, int j) { return get(from[S::kPoints * i + j] + c); },
        [&](int i, int j, V v) { put(to + (S::kPoints * i + j) * plane + c, v); });
  });
}

// A^T m A: the pixels of a tile, as far as there are any.
template <typename S, typename T>
void transform_output(const float* from, int64_t plane, int64_t channels, T* const* to) {
  each_channel<T>(channels, [&](auto get, auto put, int64_t c) {
    using V = decltype(get(from));
    both_ways<S::kPoints, S::kTile, V>(
        [](const V* m, V* y) { S::result(m, y); },
        [&](int i, int j) { return get(from + (S::kPoints * i + j) * plane + c); },
        [&](int i, int j, V v) {
          if (T* pixel = to[S::kTile * i + j]) put(pixel + c, v);
        });
  });
}

// The taps of kStrip input channels and kWide output channels, the latter side by side.
template <typename T>
void transposed_taps(const Winograd& f, int64_t panel, int64_t first,
                     float taps[9][kStrip][kWide]) {
  const T* weight = static_cast<const T*>(f.weight);
  const int64_t ins = std::min<int64_t>(kStrip, f.in - first);
  const int64_t outs = std::min<int64_t>(kWide, f.out - panel * kWide);
  std::memset(taps, 0, sizeof(float) * 9 * kStrip * kWide);
  for (int t = 0; t < 9; ++t) {
    if (f.adjoint) {  // turned by 180 degrees
      for (int64_t i = 0; i < ins; ++i) {
        const T* from = weight + ((first + i) * 9 + t) * f.out + panel * kWide;
        for (int64_t o = 0; o < outs; ++o) taps[8 - t][i][o] = load(from[o]);
      }
    } else {
      for (int64_t o = 0; o < outs; ++o) {
        const T* from = weight + ((panel * kWide + o) * 9 + t) * f.in + first;
        for (int64_t i = 0; i < ins; ++i) taps[t][i][o] = load(from[i]);
      }
    }
  }
}

// Input channels with those that pad them to whole pairs.
template <typename T>
int64_t depth(const Winograd& f) {
  return up_to(f.in, Factors<Inner<T>>::kPair);
}

// G w G^T; one unit is a panel of kWide output channels. Lies (points, panels, in / kPair, kWide,
// kPair).
template <typename S, typename T>
void transform_kernel(const Winograd& f, int64_t begin, int64_t end) {
  constexpr int kPatch = S::kPoints * S::kPoints;
  using F = Factors<Inner<T>>;
  const int64_t deep = depth<T>(f), plane = deep * up_to(f.out, kWide);
  Inner<T>* kernel = static_cast<Inner<T>*>(f.kernel);
  const auto taps = std::make_unique<float[][kStrip][kWide]>(9);
  for (int64_t panel = begin; panel < end; ++panel)
    for (int64_t first = 0; first < f.in; first += kStrip) {
      transposed_taps<T>(f, panel, first, taps.get());
      const int64_t ins = std::min<int64_t>(kStrip, f.in - first);
      for (int64_t i = 0; i < ins; i += F::kPair)
        for (int v = 0; v < kWide; v += kLanes) {
          Vector rows[kPatch][F::kPair];
          for (int n = 0; n < F::kPair; ++n)  // beyond the last channel taps are zero
            both_ways<3, S::kPoints, Vector>(
                [](const Vector* g, Vector* t) { S::filter(g, t); },
                [&](int k, int j) { return read(&taps[3 * k + j][i + n][v]); },
                [&](int k, int j, Vector value) { rows[S::kPoints * k + j][n] = value; });
          Inner<T>* to = kernel + (panel * deep + first + i) * kWide + v * F::kPair;
          for (int p = 0; p < kPatch; ++p) F::pack(to + p * plane, rows[p]);
        }
    }
}

// One unit is a block of tiles.
template <typename S, typename T>
void convolve(const Winograd& f, int64_t begin, int64_t end) {
  constexpr int kBlock = S::kBlock, kPatch = S::kPoints * S::kPoints;
  const Tiles<S::kTile> tiles(f);
  using F = Factors<Inner<T>>;
  const int64_t deep = depth<T>(f), wide = up_to(f.out, kWide);
  const int64_t in_plane = kBlock * deep + kApart, out_plane = kBlock * wide + kApart;
  std::vector<Inner<T>> in(kPatch * in_plane);
  std::vector<float> out(kPatch * out_plane);
  const Inner<T>* kernels = static_cast<const Inner<T>*>(f.kernel);
  const std::vector<T> zeros(f.in);
  const T* x = static_cast<const T*>(f.x);
  T* y = static_cast<T*>(f.y);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock;
    const int64_t count = std::min<int64_t>(kBlock, tiles.count - first);
    for (int64_t t = 0; t < count; ++t) {
      const T* patch[kPatch];
      tiles.template pixels<const T>(first + t, S::kPoints, 1, x, f.in, zeros.data(), patch);
      transform_input<S>(patch, f.in, in.data() + t * deep, in_plane);
    }
    for (int p = 0; p < kPatch; ++p)
      for (int64_t o = 0; o < wide; o += kWide) {
        const Inner<T>* kernel = kernels + (p * wide + o) * deep;
        // Rows beyond the last tile are old or zero, and nobody reads what becomes of them.
        for (int64_t t = 0; t < count; t += kRows)
          multiply<false>(in.data() + p * in_plane + t * deep, deep, F::kPair, kernel,
                          kWide * F::kPair, deep / F::kPair,
                          out.data() + p * out_plane + t * wide + o, wide);
      }
    for (int64_t t = 0; t < count; ++t) {
      T* pixels[S::kTile * S::kTile];
      tiles.template pixels<T>(first + t, S::kTile, 0, y, f.out, nullptr, pixels);
      transform_output<S>(out.data() + t * wide, out_plane, f.out, pixels);
    }
  }
}

// body(tile, number) with a tile of the kind that is taken, and a number of the features' type.
template <typename Body>
void of_kind(DType d, const Winograd& f, Body body) {
  of_features(d, [&](auto number) {
    if constexpr (sizeof(number) == sizeof(float))
      if (!f.local) return body(Four(), number);
    body(Two(), number);
  });
}

}  // namespace

int64_t winograd_kernel_units(const Winograd& f) { return up_to(f.out, kWide) / kWide; }
int64_t winograd_kernel_size(DType d, const Winograd& f) {
  int64_t size = 0;
  of_kind(d, f, [&](auto tile, auto) {
    size = tile.kPoints * tile.kPoints * f.in * up_to(f.out, kWide);
  });
  return size;
}
void winograd_kernel(DType d, const Winograd& f, int64_t begin, int64_t end) {
  of_kind(d, f, [&](auto tile, auto number) {
    transform_kernel<decltype(tile), decltype(number)>(f, begin, end);
  });
}
int64_t winograd_units(DType d, const Winograd& f) {
  int64_t units = 0;
  of_kind(d, f, [&](auto tile, auto) { units = Tiles<tile.kTile>(f).blocks(tile.kBlock); });
  return units;
}
void winograd(DType d, const Winograd& f, int64_t begin, int64_t end) {
  of_kind(d, f, [&](auto tile, auto number) {
    convolve<decltype(tile), decltype(number)>(f, begin, end);
  });
}

}  // namespace dg
