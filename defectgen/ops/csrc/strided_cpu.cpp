// The gradient of the weights of a 3x3 convolution with a stride: for each tap the product of pixels
// that are a stride apart with those of the gradient, a block of them at a time.
#include <vector>

#include "cpu.h"
#include "gemm.h"

namespace dg {
namespace {

constexpr int64_t kBlock = 64;  // pixels

// Sums over so many blocks are made in this many parts, whatever the number of threads, so that they
// have one order: eight blocks at least, and a scratch of 64 MiB at most unless one part needs more.
int64_t parts_for(int64_t blocks, int64_t numbers_per_part) {
  const int64_t room = (int64_t(1) << 24) / std::max<int64_t>(1, numbers_per_part);
  return std::max<int64_t>(1, std::min<int64_t>({16, blocks / 8, room}));
}

int64_t blocks_of(const StridedWeights& f) {
  return (f.batch * f.rows * f.columns + kBlock - 1) / kBlock;
}

// Sums of a part, and how many parts there are.
int64_t sums_of(const StridedWeights& f) { return 9 * up_to(f.in, kRows) * up_to(f.out, kWide); }
int64_t parts_of(const StridedWeights& f) { return parts_for(blocks_of(f), sums_of(f)); }

}  // namespace

int64_t strided_sums_size(const StridedWeights& f) {
  return parts_of(f) * sums_of(f);
}
int64_t strided_sums_units(const StridedWeights& f) { return parts_of(f) * groups_of(f.in); }

// One unit is a group of input channels in a part of the blocks. Lies (parts, 9, in, out).
void strided_sums(const StridedWeights& f, int64_t begin, int64_t end) {
  const int64_t wide = up_to(f.out, kWide), high = up_to(f.in, kRows), parts = parts_of(f);
  const int64_t blocks = blocks_of(f), plane = f.rows * f.columns;
  std::vector<float> dy(kBlock * wide), x;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t part = unit / groups_of(f.in), channel = unit % groups_of(f.in) * group_size(f.in);
    const int64_t channels = std::min(group_size(f.in), f.in - channel);
    const int64_t rows = up_to(channels, kRows);
    float* sums = f.sums + (part * 9 * high + channel) * wide;
    for (int t = 0; t < 9; ++t) std::fill_n(sums + t * high * wide, rows * wide, 0.0f);
    x.assign(kBlock * rows, 0.0f);
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
      const int64_t first = block * kBlock;
      const int64_t count = std::min<int64_t>(kBlock, f.batch * plane - first);
      const float* corner[kBlock];
      for (int64_t p = 0; p < count; ++p) {
        const int64_t n = (first + p) / plane, row = (first + p) / f.columns % f.rows;
        const int64_t column = (first + p) % f.columns;
        corner[p] = f.x + ((n * f.height + row * f.stride) * f.width + column * f.stride) * f.in;
        std::memcpy(dy.data() + p * wide, f.dy + (first + p) * f.out, f.out * sizeof(float));
      }
      for (int t = 0; t < 9; ++t) {
        const int64_t tap = (t / 3 * f.width + t % 3) * f.in + channel;
        for (int64_t p = 0; p < count; ++p)
          std::memcpy(x.data() + p * rows, corner[p] + tap, channels * sizeof(float));
        for (int64_t o = 0; o < wide; o += kWide)
          for (int64_t i = 0; i < rows; i += kRows)
            multiply<true>(x.data() + i, 1, rows, dy.data() + o, wide, count,
                           sums + (t * high + i) * wide + o, wide);
      }
    }
  }
}

void strided_weights(const StridedWeights& f, int64_t begin, int64_t end) {
  const int64_t wide = up_to(f.out, kWide), high = up_to(f.in, kRows), parts = parts_of(f);
  transpose_weights(f.in, f.out, f.dweight, begin, end, [&](int64_t i, int64_t o, Vector* taps) {
    for (int t = 0; t < 9; ++t) taps[t] = Vector{};
    for (int64_t part = 0; part < parts; ++part)
      for (int t = 0; t < 9; ++t) taps[t] += read(f.sums + ((part * 9 + t) * high + i) * wide + o);
  });
}

}  // namespace dg
