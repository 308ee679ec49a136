// upfirdn2d on the GPU. A thread makes a strip of output rows in one column, for one vector of
// channels, and runs down the input rows: what a later row needs again stays in registers. There
// are three kernels: `blur` for filters of 4 taps that keep the size, `strip` for those that double
// or halve it and for narrow features, `number` for every other filter and factor.
#include "launchers.h"
#include "upfirdn2d_blur.cuh"

namespace dg {
namespace {

// -- filters that double or halve the size: across the columns first ------------------------------

// Input columns under the filter at one output column, with their taps, on their way down the rows.
template <typename T, int V, int COUNT>
struct Window {
  using A = Acc<T>;
  const T* x;  // first of these columns, in the next row
  int64_t pitch;
  int channels, count, row, rows;  // row: the next one, may lie outside
  A taps[COUNT];

  __device__ __forceinline__ Window(const UpFirDn& f, int up, const Strip& at, int first_row,
                                    int channels_)
      : pitch(f.columns.in * channels_),
        channels(channels_),
        row(first_row),
        rows(static_cast<int>(f.rows.in)) {
    Axis axis = f.columns;
    axis.up = up;  // known to the compiler: no division
    int k;
    int64_t left;
    axis_taps(axis, at.column, &k, &left, &count);
    x = static_cast<const T*>(f.x) + (at.plane * rows + row) * pitch + left * channels + at.channel;
#pragma unroll
    for (int m = 0; m < COUNT; ++m)
      taps[m] = m < count ? __ldg(static_cast<const A*>(f.taps) + k + m * up) : A(0);
  }
  // Zeros lie beyond the edges. Taps of zero would not do: what is there may be infinite.
  __device__ __forceinline__ void fetch(Vec<T, V> (&to)[COUNT]) {
    const bool inside = row >= 0 && row < rows;
#pragma unroll
    for (int m = 0; m < COUNT; ++m) {
      to[m] = {};
      if (inside && m < count) to[m] = read<V>(x + static_cast<int64_t>(m) * channels);
    }
    ++row;
    x += pitch;
  }
  __device__ __forceinline__ void sum(const Vec<T, V> (&from)[COUNT], A (&to)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) to[v] = load(from[0].at(v)) * taps[0];
#pragma unroll
    for (int m = 1; m < COUNT; ++m) {
#pragma unroll
      for (int v = 0; v < V; ++v) to[v] += load(from[m].at(v)) * taps[m];
    }
  }
};

template <typename T, int V, int UP, int DOWN, template <typename, int> class End>
__global__ void __launch_bounds__(kThreads, kResident)
    strip(UpFirDn f, StripGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  constexpr int kRows = kTaps / UP;  // input rows under the filter
  // Doubling takes the odd taps and the even taps in turn, and moves on every second row. Strips
  // begin with the odd ones.
  constexpr int kPhases = UP == 2 && DOWN == 1 ? 2 : 1;
  // Input rows seen when output row j of the strip is made.
  constexpr auto seen_by = [](int j) { return kRows + (kPhases == 2 ? j / 2 : j * DOWN / UP); };
  constexpr int kAll = seen_by(kStrip - 1);
  const Strip at(g, V, f.columns.out);
  if (!at.writes) return;
  const int start = at.row * DOWN - f.rows.pad;
  const int k = UP == 2 ? start & 1 : 0;
  Window<T, V, kRows> window(f, UP, at, (start + k) / UP, g.channels);
  const End<A, V> end(f, g, at.plane, at.channel);
  A taps[kPhases][kRows];
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    const A* all = static_cast<const A*>(f.taps) + m * UP;
    taps[0][m] = __ldg(all + k);
    if (kPhases == 2) taps[kPhases - 1][m] = __ldg(all);
  }
  int64_t pixel = at.row * f.columns.out + at.column;
  T* out = static_cast<T*>(f.out) + at.channel +
           (at.plane * f.rows.out * f.columns.out + pixel) * g.channels;

  Vec<T, V> next[kRows];
  A sums[kRows][V];  // that of input row i is sums[i % kRows]
  window.fetch(next);
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    if (at.row + j >= f.rows.out) break;
#pragma unroll
    for (int i = j ? seen_by(j - 1) : 0; i < seen_by(j); ++i) {
      Vec<T, V> here[kRows];
#pragma unroll
      for (int m = 0; m < kRows; ++m) here[m] = next[m];
      if (i + 1 < kAll) window.fetch(next);  // on its way while this row is summed
      window.sum(here, sums[i % kRows]);
    }
    if (at.row + j >= 0) {
      A value[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        value[v] = sums[(seen_by(j) - kRows) % kRows][v] * taps[j % kPhases][0];
#pragma unroll
        for (int m = 1; m < kRows; ++m)
          value[v] += sums[(seen_by(j) - kRows + m) % kRows][v] * taps[j % kPhases][m];
      }
      end(c, value, pixel);
      write(out, rounded<T>(value));
    }
    pixel += f.columns.out;
    out += f.columns.out * g.channels;
  }
}

// -- every other filter and factor: a thread makes one number out of all that it is made of -------

template <typename T>
__global__ void __launch_bounds__(kThreads) number(UpFirDn f, StripGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= f.batch * f.channels * f.rows.out * f.columns.out) return;
  const int channel = static_cast<int>(i % g.channels);
  const int64_t pixel = i / g.channels;
  const int64_t column = pixel % f.columns.out, row = pixel / f.columns.out % f.rows.out;
  const int64_t plane = pixel / f.columns.out / f.rows.out;
  int k, l, high, wide;
  int64_t top, left;
  axis_taps(f.rows, row, &k, &top, &high);
  axis_taps(f.columns, column, &l, &left, &wide);
  const T* x = static_cast<const T*>(f.x) +
               ((plane * f.rows.in + top) * f.columns.in + left) * g.channels + channel;
  const A* taps = static_cast<const A*>(f.taps);
  A value[1] = {A(0)};
  for (int a = 0; a < high; ++a) {
    A line = A(0);
    for (int b = 0; b < wide; ++b)
      line += load(x[(a * f.columns.in + b) * g.channels]) * taps[l + b * f.columns.up];
    value[0] += line * taps[k + a * f.rows.up];
  }
  if (f.epilogue) Epilogue<A, 1>(f, g, plane, channel)(c, value, row * f.columns.out + column);
  static_cast<T*>(f.out)[i] = store<T>(value[0]);
}

// -- launchers ------------------------------------------------------------------------------------

template <typename T, int V>
cudaError_t strips(const UpFirDn& f, cudaStream_t stream) {
  const int up = f.rows.up, down = f.rows.down;
  const bool keeps = up == 1 && down == 1;
  // Makes the first row of a strip one of odd taps.
  const int offset = up == 2 && down == 1 && f.rows.pad % 2 == 0 ? 1 : 0;
  const StripGrid g(f, V, offset, keeps && V > 1 ? kTaps - 1 : 0);
  const auto start = [&](auto* kernel) {
    return launch(kernel, g.blocks(), g.threads(), stream, f, g, curve_of<Acc<T>>(f));
  };
  if constexpr (V > 1) {
    if (keeps) return f.epilogue ? start(blur<T, V, Epilogue>) : start(blur<T, V, NoEpilogue>);
  } else {
    if (f.epilogue) return start(strip<T, V, 1, 1, Epilogue>);
    if (keeps) return start(strip<T, V, 1, 1, NoEpilogue>);
  }
  if (up == 2 && down == 1) return start(strip<T, V, 2, 1, NoEpilogue>);
  if (up == 1 && down == 2) return start(strip<T, V, 1, 2, NoEpilogue>);
  return start(strip<T, V, 2, 2, NoEpilogue>);
}

template <typename T>
cudaError_t filter(const UpFirDn& f, cudaStream_t stream) {
  // Doubles are for checking gradients: not worth kernels of their own.
  if constexpr (!std::is_same<T, double>::value) {
    const int up = f.rows.up, down = f.rows.down;
    constexpr int64_t most = INT32_MAX / 4;  // strips count rows and columns in 32 bits
    const bool small = f.rows.in < most && f.rows.out < most && f.columns.out < most;
    const bool common = up <= 2 && down <= 2 && f.rows.taps == kTaps && small;
    if (common && (!f.epilogue || (up == 1 && down == 1))) {
      const bool vectors = f.channels_last && wide<T>(true, f.channels, 0, {f.x, f.out});
      return vectors ? strips<T, kWide<T>>(f, stream) : strips<T, 1>(f, stream);
    }
  }
  const int64_t count = f.batch * f.channels * f.rows.out * f.columns.out;
  const StripGrid g(f, 1, 0, 0);
  return launch(number<T>, pieces(count, kThreads), kThreads, stream, f, g, curve_of<Acc<T>>(f));
}

}  // namespace

cudaError_t upfirdn2d(DType d, const UpFirDn& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(d, error = filter<T>(f, stream))
  return error;
}

}  // namespace dg
