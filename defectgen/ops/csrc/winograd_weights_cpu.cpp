// The gradient of the weights of Winograd convolutions on the CPU. Tiles are transformed a chunk at a
// time; then each point adds products of them to its sums. Where these are few and the chunks many,
// parts of the chunks have sums of their own, so that threads need not wait for one another; else they
// share the work on a chunk.
#include <memory>
#include <vector>

#include "winograd.h"

namespace dg {
namespace {

// Numbers of sums up to which there are parts.
constexpr int64_t kFewSums = int64_t(1) << 18;
// Tiles of a chunk, or pairs of them: the sum of many short sums is more exact than one long sum.
constexpr int64_t kShort = 64;

// Tiles of those numbers that are multiplied, and how they lie.
template <typename T>
struct Sums {
  using N = Inner<T>;
  using S = std::conditional_t<Factors<N>::kPair == 1, Four, Two>;
  static constexpr int kPair = Factors<N>::kPair, kPatch = S::kPoints * S::kPoints;
  static constexpr int kPairs = 8;  // of a unit that is transformed
  Tiles<S::kTile> tiles;
  int64_t high, wide, chunk, chunks, parts, x_plane, y_plane;
  explicit Sums(const WinogradWeights& f)
      : tiles(f), high(up_to(f.in, kRows)), wide(up_to(f.out, kWide)) {
    const bool few = size() <= kFewSums;
    // Each chunk reads and writes all sums, so where they are many longer ones pay; in bfloat16, where
    // factors are rounded anyway, they may be.
    const int64_t times = few || kPair == 1 ? 1 : 2;
    chunk = up_to(std::min(times * kShort * kPair, tiles.count), kPair);
    chunks = chunk ? (tiles.count + chunk - 1) / chunk : 0;
    // Whatever the number of threads, so that sums have one order.
    parts = few ? std::max<int64_t>(1, std::min<int64_t>(16, chunks / 2)) : 1;
    x_plane = chunk * high + kApart;
    y_plane = chunk * wide + kApart;
  }
  int64_t size() const { return kPatch * high * wide; }
  int64_t room() const { return kPatch * (x_plane + y_plane); }
  // Chunks before this part.
  int64_t before(int64_t part) const { return chunks * part / parts; }
  int64_t pairs(int64_t index) const {
    return (std::min(chunk, tiles.count - index * chunk) + kPair - 1) / kPair;
  }
  int64_t transform_units() const { return (chunk / kPair + kPairs - 1) / kPairs; }
};

// kPair tiles side by side, kIn x kIn pixels each, become kOut x kOut points.
template <int kIn, int kOut, typename N, typename T, typename Line>
void transform_pair(Line line, const T* const* from, int64_t channels, N* to, int64_t plane) {
  using F = Factors<N>;
  each_channel<T>(channels, [&](auto get, auto, int64_t c) {
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
void transform_tiles(const WinogradWeights& f, void* points, int64_t index, int64_t begin,
                     int64_t end) {
  using K = Sums<T>;
  using S = typename K::S;
  const K k(f);
  const T *image = static_cast<const T*>(f.x), *gradient = static_cast<const T*>(f.dy);
  const std::vector<T> zeros(std::max(f.in, f.out));
  typename K::N* x = static_cast<typename K::N*>(points);
  typename K::N* dy = x + K::kPatch * k.x_plane;
  const int64_t last = std::min(end * K::kPairs, k.pairs(index));
  for (int64_t pair = begin * K::kPairs; pair < last; ++pair) {
    const T* pixels[K::kPair * K::kPatch];
    const auto find = [&](int size, int before, const T* base, int64_t channels) {
      for (int n = 0; n < K::kPair; ++n) {
        const int64_t tile = index * k.chunk + pair * K::kPair + n;
        const T** found = pixels + n * size * size;
        if (tile < k.tiles.count)
          k.tiles.template pixels<const T>(tile, size, before, base, channels, zeros.data(), found);
        else
          std::fill_n(found, size * size, zeros.data());
      }
    };
    find(S::kPoints, 1, image, f.in);
    transform_pair<S::kPoints, S::kPoints>([](const auto* d, auto* t) { S::image(d, t); }, pixels,
                                           f.in, x + pair * k.high * K::kPair, k.x_plane);
    find(S::kTile, 0, gradient, f.out);
    transform_pair<S::kTile, S::kPoints>(
        [](const auto* g, auto* t) { S::template filter<S::kTile>(g, t); }, pixels, f.out,
        dy + pair * k.wide * K::kPair, k.y_plane);
  }
}

// One unit is a group of input channels at a point. Lies (parts, kPatch, in, out).
template <typename T>
void add_products(const WinogradWeights& f, const void* points, int64_t part, int64_t index,
                  int64_t begin, int64_t end) {
  using K = Sums<T>;
  const K k(f);
  const typename K::N* room = static_cast<const typename K::N*>(points);
  const bool more = index > k.before(part);
  const int64_t groups = groups_of(f.in), pairs = k.pairs(index);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t p = unit / groups, channel = unit % groups * group_size(f.in);
    const int64_t last = std::min(channel + group_size(f.in), k.high);
    for (int64_t o = 0; o < k.wide; o += kWide)
      for (int64_t i = channel; i < last; i += kRows) {
        // Rows and columns beyond the channels hold anything, and nobody reads what becomes of them.
        const auto* x = room + p * k.x_plane + i * K::kPair;
        const auto* dy = room + K::kPatch * k.x_plane + p * k.y_plane + o * K::kPair;
        float* sums = f.sums + part * k.size() + (p * k.high + i) * k.wide + o;
        const auto run = more ? multiply<true, typename K::N> : multiply<false, typename K::N>;
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
          const float* sums = f.sums + ((S::kPoints * p + j) * k.high + i) * k.wide + o;
          Vector sum = read(sums);
          for (int64_t part = 1; part < k.parts; ++part) sum += read(sums + part * k.size());
          return sum;
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
    s.sums = k.parts * k.size();
    s.points = k.parts > 1 ? 0 : k.room() * int64_t(sizeof(typename K::N)) / sizeof(float) + 1;
    s.parts = k.parts;
    s.chunks = k.chunks;
    s.transform_units = k.transform_units();
    s.product_units = K::kPatch * groups_of(f.in);
  });
  return s;
}
void winograd_parts(DType d, const WinogradWeights& f, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) {
    using T = decltype(number);
    const Sums<T> k(f);
    const std::unique_ptr<typename Sums<T>::N[]> points(new typename Sums<T>::N[k.room()]);
    for (int64_t part = begin; part < end; ++part)
      for (int64_t index = k.before(part); index < k.before(part + 1); ++index) {
        transform_tiles<T>(f, points.get(), index, 0, k.transform_units());
        add_products<T>(f, points.get(), part, index, 0, Sums<T>::kPatch * groups_of(f.in));
      }
  });
}
void winograd_tiles(DType d, const WinogradWeights& f, int64_t index, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) {
    transform_tiles<decltype(number)>(f, f.points, index, begin, end);
  });
}
void winograd_sums(DType d, const WinogradWeights& f, int64_t index, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) {
    add_products<decltype(number)>(f, f.points, 0, index, begin, end);
  });
}
void winograd_weights(DType d, const WinogradWeights& f, int64_t begin, int64_t end) {
  of_features(d, [&](auto number) { transform_sums<decltype(number)>(f, begin, end); });
}

}  // namespace dg
