// Winograd convolutions on the CPU. Tiles are taken in blocks: their 4x4 patches are transformed,
// the sixteen positions of a block are sixteen matrix products, and what comes out is transformed
// back while it is still in the cache. A tile's numbers depend on nothing but the tile.
#include <memory>
#include <vector>

#include "cpu.h"
#include "gemm.h"

namespace dg {
namespace {

constexpr int kBlock = 48;  // tiles of a block, a multiple of kRows
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
struct Tiles {
  int64_t height, width, down, across, count;
  template <typename Shape>
  explicit Tiles(const Shape& s)
      : height(s.height),
        width(s.width),
        down((height + 1) / 2),
        across((width + 1) / 2),
        count(s.batch * down * across) {}
  int64_t blocks() const { return (count + kBlock - 1) / kBlock; }
  // The size x size pixels of which the first lies `before` above and left of the tile; `beyond`
  // where there are none.
  template <typename Number>
  void pixels(int64_t tile, int size, int before, Number* base, int64_t channels, Number* beyond,
              Number** found) const {
    const int64_t n = tile / (down * across);
    const int64_t top = tile / across % down * 2 - before, left = tile % across * 2 - before;
    for (int i = 0; i < size; ++i)
      for (int j = 0; j < size; ++j) {
        const int64_t row = top + i, column = left + j;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        const int64_t at = ((n * height + row) * width + column) * channels;
        found[i * size + j] = inside ? base + at : beyond;
      }
  }
};

// B^T d B of a patch of 4x4 pixels.
inline void transform_input(const float* const* from, int64_t channels, float* to, int64_t plane) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    decltype(get(from[0])) t[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto a = get(from[j] + c), b = get(from[4 + j] + c);
      const auto d = get(from[8 + j] + c), e = get(from[12 + j] + c);
      t[0][j] = a - d;
      t[1][j] = b + d;
      t[2][j] = d - b;
      t[3][j] = b - e;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* row = to + 4 * i * plane + c;
      put(row, t[i][0] - t[i][2]);
      put(row + plane, t[i][1] + t[i][2]);
      put(row + 2 * plane, t[i][2] - t[i][1]);
      put(row + 3 * plane, t[i][1] - t[i][3]);
    }
  });
}

// A^T m A: the 2x2 pixels of a tile, as far as there are any.
inline void transform_output(const float* from, int64_t plane, int64_t channels, float* const* to) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    decltype(get(from)) t[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* column = from + j * plane + c;
      const auto b = get(column + 4 * plane), d = get(column + 8 * plane);
      t[0][j] = get(column) + b + d;
      t[1][j] = b - d - get(column + 12 * plane);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      if (to[2 * i]) put(to[2 * i] + c, t[i][0] + t[i][1] + t[i][2]);
      if (to[2 * i + 1]) put(to[2 * i + 1] + c, t[i][1] - t[i][2] - t[i][3]);
    }
  });
}

// G d G^T of the gradient of a tile, whose 2x2 pixels are the filter when weights are sought.
inline void transform_filter(const float* const* from, int64_t channels, float* to,
                             int64_t plane) {
  each_channel(channels, [&](auto get, auto put, int64_t c) {
    const auto a = get(from[0] + c), b = get(from[1] + c);
    const auto d = get(from[2] + c), e = get(from[3] + c);
    const decltype(get(from[0])) t[4][2] = {
        {a, b}, {0.5f * (a + d), 0.5f * (b + e)}, {0.5f * (a - d), 0.5f * (b - e)}, {d, e}};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* row = to + 4 * i * plane + c;
      put(row, t[i][0]);
      put(row + plane, 0.5f * (t[i][0] + t[i][1]));
      put(row + 2 * plane, 0.5f * (t[i][0] - t[i][1]));
      put(row + 3 * plane, t[i][1]);
    }
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

}  // namespace

// -- forward, and the gradient of the features -----------------------------------------------------

int64_t winograd_kernel_units(const Winograd& f) { return up_to(f.out, kWide) / kWide; }
int64_t winograd_kernel_size(const Winograd& f) { return 16 * f.in * up_to(f.out, kWide); }

// G w G^T; one unit is a panel of kWide output channels. Lies (16, panels, in, kWide).
void winograd_kernel(const Winograd& f, int64_t begin, int64_t end) {
  const int64_t plane = f.in * up_to(f.out, kWide);
  const auto taps = std::make_unique<float[][kStrip][kWide]>(9);
  for (int64_t panel = begin; panel < end; ++panel)
    for (int64_t first = 0; first < f.in; first += kStrip) {
      transposed_taps(f, panel, first, taps.get());
      const int64_t ins = std::min<int64_t>(kStrip, f.in - first);
      for (int64_t i = 0; i < ins; ++i)
        for (int v = 0; v < kWide; v += kLanes) {
          Vector t[4][3];
          for (int j = 0; j < 3; ++j) {
            const Vector a = read(&taps[j][i][v]), b = read(&taps[3 + j][i][v]);
            const Vector c = read(&taps[6 + j][i][v]);
            t[0][j] = a;
            t[1][j] = 0.5f * (a + c + b);
            t[2][j] = 0.5f * (a + c - b);
            t[3][j] = c;
          }
          float* to = f.kernel + (panel * f.in + first + i) * kWide + v;
          for (int k = 0; k < 4; ++k, to += 4 * plane) {
            write(to, t[k][0]);
            write(to + plane, 0.5f * (t[k][0] + t[k][2] + t[k][1]));
            write(to + 2 * plane, 0.5f * (t[k][0] + t[k][2] - t[k][1]));
            write(to + 3 * plane, t[k][2]);
          }
        }
    }
}

int64_t winograd_units(const Winograd& f) { return Tiles(f).blocks(); }

// One unit is a block of tiles.
void winograd(const Winograd& f, int64_t begin, int64_t end) {
  const Tiles tiles(f);
  const int64_t wide = up_to(f.out, kWide);
  const int64_t in_plane = kBlock * f.in + kApart, out_plane = kBlock * wide + kApart;
  std::vector<float> zeros(f.in), in(16 * in_plane), out(16 * out_plane);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock;
    const int64_t count = std::min<int64_t>(kBlock, tiles.count - first);
    for (int64_t t = 0; t < count; ++t) {
      const float* patch[16];
      tiles.pixels<const float>(first + t, 4, 1, f.x, f.in, zeros.data(), patch);
      transform_input(patch, f.in, in.data() + t * f.in, in_plane);
    }
    for (int p = 0; p < 16; ++p)
      for (int64_t o = 0; o < wide; o += kWide) {
        const float* kernel = f.kernel + (p * wide + o) * f.in;
        // Rows beyond the last tile are old or zero, and nobody reads what becomes of them.
        for (int64_t t = 0; t < count; t += kRows)
          multiply<false>(in.data() + p * in_plane + t * f.in, f.in, 1, kernel, kWide, f.in,
                          out.data() + p * out_plane + t * wide + o, wide);
      }
    for (int64_t t = 0; t < count; ++t) {
      float* pixels[4];
      tiles.pixels<float>(first + t, 2, 0, f.y, f.out, nullptr, pixels);
      transform_output(out.data() + t * wide, out_plane, f.out, pixels);
    }
  }
}

// -- the gradient of the weights -------------------------------------------------------------------

namespace {

// Sums of a part, and how many parts there are.
int64_t sums_of(const WinogradWeights& f) { return 16 * up_to(f.in, kRows) * up_to(f.out, kWide); }
int64_t parts_of(const WinogradWeights& f) { return parts_for(Tiles(f).blocks(), sums_of(f)); }

}  // namespace

int64_t winograd_sums_size(const WinogradWeights& f) {
  return parts_of(f) * sums_of(f);
}
int64_t winograd_sums_units(const WinogradWeights& f) { return parts_of(f) * groups_of(f.in); }

// One unit is a group of input channels in a part of the tiles. Lies (parts, 16, in, out).
void winograd_sums(const WinogradWeights& f, int64_t begin, int64_t end) {
  const Tiles tiles(f);
  const int64_t wide = up_to(f.out, kWide), high = up_to(f.in, kRows), parts = parts_of(f);
  const int64_t y_plane = kBlock * wide + kApart;
  std::vector<float> zeros(std::max(f.in, f.out)), dy(16 * y_plane), x;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t part = unit / groups_of(f.in), channel = unit % groups_of(f.in) * group_size(f.in);
    const int64_t channels = std::min(group_size(f.in), f.in - channel);
    const int64_t rows = up_to(channels, kRows), x_plane = kBlock * rows + kApart;
    float* sums = f.sums + (part * 16 * high + channel) * wide;
    for (int p = 0; p < 16; ++p) std::fill_n(sums + p * high * wide, rows * wide, 0.0f);
    x.assign(16 * x_plane, 0.0f);
    const int64_t last = tiles.blocks() * (part + 1) / parts;
    for (int64_t block = tiles.blocks() * part / parts; block < last; ++block) {
      const int64_t first = block * kBlock;
      const int64_t count = std::min<int64_t>(kBlock, tiles.count - first);
      for (int64_t t = 0; t < count; ++t) {
        const float* pixels[16];
        tiles.pixels<const float>(first + t, 4, 1, f.x, f.in, nullptr, pixels);
        for (auto& pixel : pixels) pixel = pixel ? pixel + channel : zeros.data();
        transform_input(pixels, channels, x.data() + t * rows, x_plane);
        tiles.pixels<const float>(first + t, 2, 0, f.dy, f.out, zeros.data(), pixels);
        transform_filter(pixels, f.out, dy.data() + t * wide, y_plane);
      }
      for (int p = 0; p < 16; ++p)
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
    Vector m[16] = {}, t[3][4];
    for (int64_t part = 0; part < parts; ++part)
      for (int p = 0; p < 16; ++p) m[p] += read(f.sums + ((part * 16 + p) * high + i) * wide + o);
    for (int j = 0; j < 4; ++j) {
      t[0][j] = m[j] + m[4 + j] + m[8 + j];
      t[1][j] = m[4 + j] - m[8 + j];
      t[2][j] = m[4 + j] + m[8 + j] - m[12 + j];
    }
    for (int k = 0; k < 3; ++k) {
      taps[3 * k] = t[k][0] + t[k][1] + t[k][2];
      taps[3 * k + 1] = t[k][1] - t[k][2];
      taps[3 * k + 2] = t[k][1] + t[k][2] - t[k][3];
    }
  });
}

}  // namespace dg
