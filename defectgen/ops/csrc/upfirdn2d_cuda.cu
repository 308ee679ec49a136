// upfirdn2d on the GPU. A thread makes a strip of output rows in one column, for one vector of
// channels, and runs down the input rows: what a later row needs again stays in registers. There are
// three kernels: `blur` for filters of 4 taps that keep the size, `strip` for those that double or
// halve it and for narrow features, `number` for every other filter and factor.
#include "cuda.cuh"
#include "launchers.h"

namespace dg {
namespace {

constexpr int kStrip = 8;     // output rows of a thread
constexpr int kTaps = 4;      // of the filters that strips are made for
constexpr int kResident = 2;  // blocks that a multiprocessor must have registers for
// Vectors of channels side by side in a block. Few, so that it holds many columns, which share what
// they read with their neighbors.
constexpr int kMostLanes = 8;

// Features as planes of `channels` numbers per pixel: samples with channels last, otherwise every
// channel of every sample is a plane of its own. `planes` of them make up a sample.
struct StripGrid {
  int channels, planes, lanes, tiles, columns, spans, strips, offset, halo;
  int64_t count;  // planes in all

  // offset: rows by which the first strip begins early; halo: columns read beyond those written.
  StripGrid(const UpFirDn& f, int V, int offset_, int halo_)
      : channels(f.channels_last ? static_cast<int>(f.channels) : 1),
        planes(f.channels_last ? 1 : static_cast<int>(f.channels)),
        offset(offset_),
        halo(halo_),
        count(f.batch * planes) {
    const int64_t vectors = channels / V;
    lanes = even_lanes(vectors, kMostLanes);
    tiles = static_cast<int>(pieces(vectors, lanes));
    columns = even_lanes(f.columns.out, kThreads / lanes - halo);
    spans = static_cast<int>(pieces(f.columns.out, columns));
    strips = static_cast<int>(pieces(f.rows.out + offset, kStrip));
  }
  int threads() const { return round_up(lanes * (columns + halo), kWarp); }
  int64_t blocks() const { return count * strips * spans * tiles; }
};

// Where a thread works.
struct Strip {
  int channel, column, row;  // row: first of the strip; may be -1
  bool reads, writes;
  int64_t plane;

  __device__ Strip(const StripGrid& g, int V, int64_t width) {
    unsigned block = blockIdx.x;
    const int tile = block % g.tiles;
    block /= g.tiles;
    const int span = block % g.spans;
    block /= g.spans;
    row = static_cast<int>(block % g.strips) * kStrip - g.offset;
    plane = block / g.strips;
    channel = (tile * g.lanes + static_cast<int>(threadIdx.x) % g.lanes) * V;
    const int beside = static_cast<int>(threadIdx.x) / g.lanes;
    column = span * g.columns + beside;
    reads = channel < g.channels && beside < g.columns + g.halo;
    writes = channel < g.channels && beside < g.columns && column < width;
  }
};

// What bias_act does to a result, with the terms of a thread's plane and channels.
template <typename A, int V>
struct Epilogue {
  A scale[V], bias[V], post[V];
  const A* noise;  // of the pixels of the sample

  __device__ __forceinline__ Epilogue(const UpFirDn& f, const StripGrid& g, int64_t plane,
                                      int channel) {
    read_terms(f.scale, plane * g.channels + channel, A(1), scale);
    read_terms(f.bias, channel + plane % g.planes, A(0), bias);
    read_terms(f.post, plane * g.channels + channel, A(1), post);
    const int64_t pixels = f.rows.out * f.columns.out;
    noise = f.noise ? static_cast<const A*>(f.noise) + plane / g.planes * pixels : nullptr;
  }
  __device__ __forceinline__ void operator()(const Curve<A>& c, A (&value)[V],
                                             int64_t pixel) const {
    const A n = noise ? __ldg(noise + pixel) : A(0);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = value[v] * scale[v] + (n + bias[v]);
    curve_all(c, value);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] *= post[v];
  }
};
template <typename A, int V>
struct NoEpilogue {
  __device__ __forceinline__ NoEpilogue(const UpFirDn&, const StripGrid&, int64_t, int) {}
  __device__ __forceinline__ void operator()(const Curve<A>&, A (&)[V], int64_t) const {}
};

// -- filters that keep the size: down the rows in registers, then across in shared memory ---------

// A thread reads one column, once. Its sums over rows then wait, for a turn of two rows, where the
// threads of the columns beside it find them.
template <typename T, int V, template <typename, int> class End>
__global__ void __launch_bounds__(kThreads, kResident)
    blur(UpFirDn f, StripGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  constexpr int kAhead = 3;  // input rows that are on their way while one is used
  constexpr int kTurn = 2;
  static_assert(kStrip % kTurn == 0, "a strip is made of whole turns");
  constexpr int kPart = V < 4 ? V : 4;
  // Two turns: one is read while the other is written, which saves a barrier.
  __shared__ Vec<A, kPart> sums[2][kTurn][V / kPart][kThreads];
  const Strip at(g, V, f.columns.out);
  const End<A, V> end(f, g, at.plane, at.writes ? at.channel : 0);
  A taps[kTaps];
  read_terms(f.taps, 0, A(0), taps);
  const int64_t width = f.columns.in * g.channels;
  const int column = at.column - f.columns.pad, rows = static_cast<int>(f.rows.in);
  const bool inside = at.reads && column >= 0 && column < f.columns.in;
  int row = at.row - f.rows.pad;  // the next one to read
  const T* x = static_cast<const T*>(f.x) + (at.plane * rows + row) * width +
               static_cast<int64_t>(column) * g.channels + at.channel;
  int64_t pixel = at.row * f.columns.out + at.column;
  T* out = static_cast<T*>(f.out) + at.channel +
           (at.plane * f.rows.out * f.columns.out + pixel) * g.channels;

  Vec<T, V> next[kAhead];
  const auto fetch = [&](Vec<T, V>& to) {
    to = {};
    if (inside && row >= 0 && row < rows) to = read<V>(x);
    ++row;
    x += width;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) fetch(next[i]);
  A partial[kTaps][V];  // output row j grows in partial[j % kTaps]
#pragma unroll
  for (int i = 0; i < kStrip + kTaps - 1; ++i) {
    const Vec<T, V> here = next[i % kAhead];
    if (i + kAhead < kStrip + kTaps - 1) fetch(next[i % kAhead]);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A value = load(here.at(v));
#pragma unroll
      for (int m = 0; m < kTaps; ++m) {
        if (i < m || i - m >= kStrip) continue;
        A& grown = partial[(i - m) % kTaps][v];
        grown = m ? grown + value * taps[m] : value * taps[0];
      }
    }
    const int j = i - (kTaps - 1);  // the output row that is complete now
    if (j < 0) continue;
    auto& turn = sums[j / kTurn % 2];
#pragma unroll
    for (int p = 0; p < V / kPart; ++p) {
      Vec<A, kPart> part;
      memcpy(&part, &partial[j % kTaps][p * kPart], sizeof(part));
      turn[j % kTurn][p][threadIdx.x] = part;
    }
    if (j % kTurn != kTurn - 1) continue;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kTurn; ++s) {
      const bool below = at.row + j - kTurn + 1 + s >= f.rows.out;
      if (at.writes && !below) {
        A value[V];
#pragma unroll
        for (int m = 0; m < kTaps; ++m) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const A term = turn[s][v / kPart][threadIdx.x + m * g.lanes].at(v % kPart) * taps[m];
            value[v] = m ? value[v] + term : term;
          }
        }
        end(c, value, pixel);
        write(out, rounded<T>(value));
      }
      pixel += f.columns.out;
      out += f.columns.out * g.channels;
    }
    if (at.row + j + 1 >= f.rows.out) break;  // the same for all threads
  }
}

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
  if (f.epilogue)
    Epilogue<A, 1>(f, g, plane, channel)(c, value, row * f.columns.out + column);
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
      const bool wide = f.channels_last && f.channels % kWide<T> == 0 && aligned({f.x, f.out});
      return wide ? strips<T, kWide<T>>(f, stream) : strips<T, 1>(f, stream);
    }
  }
  const int64_t count = f.batch * f.channels * f.rows.out * f.columns.out;
  const StripGrid g(f, 1, 0, 0);
  return launch(number<T>, pieces(count, kThreads), kThreads, stream, f, g,
                curve_of<Acc<T>>(f));
}

}  // namespace

cudaError_t upfirdn2d(DType d, const UpFirDn& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(d, error = filter<T>(f, stream))
  return error;
}

}  // namespace dg
