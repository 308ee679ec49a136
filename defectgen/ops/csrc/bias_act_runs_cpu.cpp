// bias_act on the CPU for few channels in bfloat16, channels last, where a loop over the channels of
// one pixel costs more than its arithmetic: of a run of pixels a vector of channels is done, then the
// next one. With more channels memory would be read out of order, which costs more than it saves.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu.h"
#include "vectors.h"

namespace dg {
namespace {

constexpr int64_t kFew = 64;
constexpr int kRun = 16;
static_assert(kRun % kLanes == 0, "sums over channels are taken from squares of numbers");

// The sums of the rows of a square, into its first one.
void sum_rows(float (*rows)[kLanes]) {
  for (int count = kLanes; count > 1; count /= 2)
    for (int r = 0; r < count; r += 2) {
      // Neighbors of both rows become one row, half as many sums of each.
      float both[2 * kLanes];
      std::memcpy(both, rows[r], sizeof(both));
      for (int j = 0; j < kLanes; ++j) rows[r / 2][j] = both[2 * j] + both[2 * j + 1];
    }
}

}  // namespace

bool bias_act_in_runs(DType d, const BiasActShape& s) {
  return d == DType::bf16 && s.channels_last && s.channels % kLanes == 0 && s.channels <= kFew;
}

void bias_act_forward_runs(const BiasActForward& f, int64_t begin, int64_t end) {
  const auto& s = f.shape;
  const int64_t C = s.channels;
  const Curve<float> c = curve_of<float>(s);
  const Filled<float> scale(f.scale, C, 1.0f), bias(f.bias, C, 0.0f), post(f.post, C, 1.0f);
  const BFloat16* x = static_cast<const BFloat16*>(f.x);
  BFloat16* out = static_cast<BFloat16*>(f.out);
  const float* noise = static_cast<const float*>(f.noise);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Stretch at(s, unit);
    for (int64_t p = at.first; p < at.last; p += kRun)
      for (int64_t i = 0; i < C; i += kLanes) {
        const Vector sc = read(scale.row(at.sample) + i), po = read(post.row(at.sample) + i);
        const Vector bi = read(bias.row(0) + i);
        for (int64_t q = p; q < std::min(p + kRun, at.last); ++q) {
          const Vector u = read(x + q * C + i) * sc + ((noise ? noise[q] : 0.0f) + bi);
          write(out + q * C + i, curve(c, u) * po);
        }
      }
  }
}

// `partial` as of backward_last.
void bias_act_backward_runs(const BiasActBackward& f, void* partial, int64_t begin, int64_t end) {
  const auto& s = f.shape;
  const int64_t C = s.channels;
  const Curve<float> c = curve_of<float>(s);
  const Filled<float> scale(f.scale, C, 1.0f);
  const BFloat16 *dy = static_cast<const BFloat16*>(f.dy), *y = static_cast<const BFloat16*>(f.y);
  const BFloat16* x = f.dots ? static_cast<const BFloat16*>(f.x) : nullptr;
  BFloat16* dx = static_cast<BFloat16*>(f.dx);
  float* noise = static_cast<float*>(f.dnoise);
  std::vector<float> unwanted(f.sums ? 0 : 2 * C);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Stretch at(s, unit);
    float* sums = f.sums ? static_cast<float*>(partial) + unit * 2 * C : unwanted.data();
    std::fill_n(sums, 2 * C, 0.0f);
    for (int64_t p = at.first; p < at.last; p += kRun) {
      const int64_t last = std::min(p + kRun, at.last);
      float totals[kRun][kLanes] = {};  // of each pixel over channels, in lanes
      for (int64_t i = 0; i < C; i += kLanes) {
        const Vector sc = read(scale.row(at.sample) + i);
        Vector sum = read(sums + i), dot = read(sums + C + i);
        for (int64_t q = p; q < last; ++q) {
          const int64_t k = q * C + i;
          const Vector du = read(dy + k) * curve_slope(c, read(y + k));
          write(dx + k, du * sc);
          sum += du;
          if (x) dot += du * read(x + k);
          if (noise) write(totals[q - p], read(totals[q - p]) + du);
        }
        write(sums + i, sum);
        write(sums + C + i, dot);
      }
      for (int64_t r = 0; noise && p + r < last; r += kLanes) {
        sum_rows(totals + r);
        std::copy_n(totals[r], std::min<int64_t>(kLanes, last - p - r), noise + p + r);
      }
    }
  }
}

}  // namespace dg
