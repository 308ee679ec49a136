// The gradient of the weights of Winograd convolutions on the CPU. Tiles are transformed a chunk at a
// time; then each point adds products of them to its sums.
#include <type_traits>
#include <vector>

#include "winograd.h"

namespace dg {
namespace {

// Bytes of transformed tiles of a chunk: near the processor, and many sums for each read of them.
constexpr int64_t kChunk = int64_t(1) << 20;

// Tiles of those numbers that are multiplied, and how they lie.
template <typename T>
struct Sums {
  using N = Inner<T>;
  using S = std::conditional_t<Factors<N>::kPair == 1, Four, Two>;
  static constexpr int kPair = Factors<N>::kPair, kPatch = S::kPoints * S::kPoints;
  static constexpr int kPairs = 8;  // of a unit that is transformed
  Tiles<S::kTile> tiles;
  int64_t high, wide, chunk, x_plane, y_plane;
  explicit Sums(const WinogradWeights& f)
      : tiles(f), high(up_to(f.in, kRows)), wide(up_to(f.out, kWide)) {
    const int64_t tile = kPatch * (high + wide) * int64_t(sizeof(N));
    chunk = up_to(std::min(std::max<int64_t>(kChunk / tile, 64), tiles.count), kPair);
    x_plane = chunk * high + kApart;
    y_plane = chunk * wide + kApart;
  }
  N* x(const WinogradWeights& f) const { return static_cast<N*>(f.points); }
  N* dy(const WinogradWeights& f) const { return x(f) + kPatch * x_plane; }
  int64_t pairs(int64_t first) const {
    return (std::min(chunk, tiles.count - first) + kPair - 1) / kPair;
  }
};

// kPair tiles side by side, kIn x kIn pixels each, become kOut x kOut points.
template <int kIn, int kOut, typename N, typename T, typename Line>
void transform_pair(Line line, const T* const* from, int64_t channels, N* to, int64_t plane) {
  using F = Factors<N>;
  each_channel(channels, [&](auto get, auto, int64_t c) {
    using V = decltype(get(from[0]));
    V rows[kOut * kOut][F::kPair];
#pragma GCC unroll 2
    for (int n = 0; n < F::kPair; ++n)
      both_ways<kIn, kOut, V>(
          line, [&](int i, int j) { return get(from[(n * kIn + i) * kIn + j] + c); },
          [&](int i, int j, V v) {
            V* side = rows[kOut * i + j];
            side[n] = v;
            if (n + 1 == F::kPair) F::pack(to + (kOut * i + j) * plane + c * F::kPair, side);
          });
  });
}

template <typename T>
void transform_tiles(const WinogradWeights& f, int64_t start, int64_t begin, int64_t end) {
  using K = Sums<T>;
  using S = typename K::S;
  const K k(f);
  const T *image = static_cast<const T*>(f.x), *gradient = static_cast<const T*>(f.dy);
  const std::vector<T> zeros(std::max(f.in, f.out));
  const int64_t last = std::min(end * K::kPairs, k.pairs(start));
  for (int64_t pair = begin * K::kPairs; pair < last; ++pair) {
    const T* pixels[K::kPair * K::kPatch];
    const auto find = [&](int size, int before, const T* base, int64_t channels) {
      for (int n = 0; n < K::kPair; ++n) {
        const int64_t tile = start + pair * K::kPair + n;
        const T** found = pixels + n * size * size;
        if (tile < k.tiles.count)
          k.tiles.template pixels<const T>(tile, size, before, base, channels, zeros.data(), found);
        else
          std::fill_n(found, size * size, zeros.data());
      }
    };
    find(S::kPoints, 1, image, f.in);
    transform_pair<S::kPoints, S::kPoints>([](const auto* d, auto* t) { S::image(d, t); }, pixels,
                                           f.in, k.x(f) + pair * k.high * K::kPair, k.x_plane);
    find(S::kTile, 0, gradient, f.out);
    transform_pair<S::kTile, S::kPoints>(
        [](const auto* g, auto* t) { S::template filter<S::kTile>(g, t); }, pixels, f.out,
        k.dy(f) + pair * k.wide * K::kPair, k.y_plane);
  }
}

// One unit is a group of input channels at a point. Lies (kPatch, in, out).
template <typename T>
void add_products(const WinogradWeights& f, int64_t start, int64_t begin, int64_t end) {
  using K = Sums<T>;
  const K k(f);
  const int64_t groups = groups_of(f.in), pairs = k.pairs(start);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t p = unit / groups, channel = unit % groups * group_size(f.in);
    const int64_t last = std::min(channel + group_size(f.in), k.high);
    for (int64_t o = 0; o < k.wide; o += kWide)
      for (int64_t i = channel; i < last; i += kRows) {
        // Rows and columns beyond the channels hold anything, and nobody reads what becomes of them.
        const auto *x = k.x(f) + p * k.x_plane + i * K::kPair, *dy = k.dy(f) + p * k.y_plane + o * K::kPair;
        float* sums = f.sums + (p * k.high + i) * k.wide + o;
        const auto run = start ? multiply<true, typename K::N> : multiply<false, typename K::N>;
        run(x, K::kPair, k.high * K::kPair, dy, k.wide * K::kPair, pairs, sums, k.wide);
      }
  }
}

// A^T m A, 3x3.
template <typename T>
void transform_sums(const WinogradWeights& f, int64_t begin, int64_t end) {
  using S = typename Sums<T>::S;
  const Sums<T> k(f);
  T* dweight = static_cast<T*>(f.dweight);
  transpose_weights(f.in, f.out, dweight, begin, end, [&](int64_t i, int64_t o, Vector* taps) {
    both_ways<S::kPoints, 3, Vector>(
        [](const Vector* m, Vector* y) { S::template result<3>(m, y); },
        [&](int p, int j) {
          return read(f.sums + ((S::kPoints * p + j) * k.high + i) * k.wide + o);
        },
        [&](int p, int j, Vector value) { taps[3 * p + j] = value; });
  });
}

}  // namespace

WinogradScratch winograd_scratch(DType d, const WinogradWeights& f) {
  WinogradScratch s;
  of_features(d, [&](auto number) {
    using K = Sums<decltype(number)>;
    const K k(f);
    s.sums = K::kPatch * k.high * k.wide;
    s.points = K::kPatch * (k.x_plane + k.y_plane) * int64_t(sizeof(typename K::N)) / 4 + 1;
    s.tiles = k.tiles.count;
    s.chunk = k.chunk;
    s.transform_units = (k.chunk / K::kPair + K::kPairs - 1) / K::kPairs;
    s.product_units = K::kPatch * groups_of(f.in);
  });
  return s;
}
void winograd_tiles(DType d, const WinogradWeights& f, int64_t start, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) { transform_tiles<decltype(number)>(f, start, begin, end); });
}
void winograd_sums(DType d, const WinogradWeights& f, int64_t start, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) { add_products<decltype(number)>(f, start, begin, end); });
}
void winograd_weights(DType d, const WinogradWeights& f, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) { transform_sums<decltype(number)>(f, begin, end); });
}

}  // namespace dg
