// Backward pass of bias_act on the GPU: every block sums its own pixels, then one more kernel sums
// the blocks. No sum depends on which thread comes first, so its bits are the same in every run.
#include "bias_act.cuh"
#include "cuda_sums.cuh"
#include "launchers.h"

namespace dg {
namespace {

// Vectors of each operand that a thread asks for before it uses the first.
constexpr int kAtOnce = 2;
static_assert(kWaiting % kAtOnce == 0, "whole groups of steps wait for one another");

// Where a block puts its sums: rows of 2 * channels numbers, or the result itself if it is alone.
template <typename A>
struct Sums {
  A *sums, *dots;
  __device__ Sums(const BiasActBackward& f, void* scratch, int64_t sample, int chunk, int chunks,
                  int channels) {
    A* row = static_cast<A*>(scratch) + (sample * chunks + chunk) * 2 * channels;
    sums = chunks > 1 ? row : static_cast<A*>(f.sums) + sample * channels;
    dots = chunks > 1 ? row + channels : static_cast<A*>(f.dots) + sample * channels;
  }
};

// Sum over the rows of a block what each thread has summed of its channels.
template <int V, typename A>
__device__ void sum_rows(A* pool, const A (&own)[V], const PixelGrid& g, const Pixels& at, A* to) {
  __syncthreads();  // the pool may still be in use
#pragma unroll
  for (int v = 0; v < V; ++v) pool[v * blockDim.x + threadIdx.x] = own[v];
  __syncthreads();
  for (int i = threadIdx.x; i < V * g.lanes; i += blockDim.x) {
    const int v = i / g.lanes, lane = i % g.lanes;
    const int channel = (at.tile * g.lanes + lane) * V + v;
    if (channel >= g.channels) continue;
    A total = A(0);
    for (int row = 0; row < g.rows; ++row) total += pool[v * blockDim.x + row * g.lanes + lane];
    to[channel] = total;
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    backward_last(BiasActBackward f, PixelGrid g, Curve<Acc<T>> c, void* scratch) {
  using A = Acc<T>;
  __shared__ A pool[kPool];
  const Pixels at(g, V);
  A scale[V], sums[V] = {}, dots[V] = {};
  read_terms(at.idle ? nullptr : f.scale, at.sample * g.channels + at.channel, A(1), scale);
  const int64_t start = at.first * g.channels + at.channel;
  const T* dy = static_cast<const T*>(f.dy) + start;
  const T* y = static_cast<const T*>(f.y) + start;
  const T* x = f.dots ? static_cast<const T*>(f.x) + start : nullptr;
  T* dx = static_cast<T*>(f.dx) + start;
  A* dnoise = f.dnoise ? static_cast<A*>(f.dnoise) + at.first : nullptr;
  const int count = at.idle ? 0 : at.count, pitch = odd_pitch(g.lanes);
  for (int base = 0; base < at.count; base += kWaiting * g.rows) {
#pragma unroll 1
    for (int step = 0; step < kWaiting; step += kAtOnce) {
      const int p = base + step * g.rows + at.row;
      Vec<T, V> of_dy[kAtOnce], of_y[kAtOnce], of_x[kAtOnce] = {};
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        const int q = p + d * g.rows;
        if (q >= count) break;
        const int64_t i = static_cast<int64_t>(q) * g.channels;
        of_dy[d] = read<V>(dy + i);
        of_y[d] = read<V>(y + i);
        if (x) of_x[d] = read<V>(x + i);
      }
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        const int q = p + d * g.rows;
        if (q >= count) break;
        A result[V], over_channels = A(0);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const A du = load(of_dy[d].at(v)) * curve_slope(c, load(of_y[d].at(v)));
          result[v] = du * scale[v];
          sums[v] += du;
          if (x) dots[v] += du * load(of_x[d].at(v));
          over_channels += du;
        }
        write(dx + static_cast<int64_t>(q) * g.channels, rounded<T>(result));
        if (dnoise) pool[((step + d) * g.rows + at.row) * pitch + at.lane] = over_channels;
      }
    }
    if (!dnoise) continue;
    __syncthreads();
    const int left = at.count - base, most = kWaiting * g.rows;
    sum_slots(pool, left < most ? left : most, pitch, g.lanes,
              [&](int slot, A total) { dnoise[base + slot] = total; });
    __syncthreads();
  }
  if (!f.sums) return;
  const Sums<A> to(f, scratch, at.sample, at.chunk, g.chunks, g.channels);
  sum_rows(pool, sums, g, at, to.sums);
  if (x) sum_rows(pool, dots, g, at, to.dots);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    backward_first(BiasActBackward f, PlaneGrid g, Curve<Acc<T>> c, void* scratch) {
  using A = Acc<T>;
  __shared__ A pool[2 * kThreads];
  const Planes at(g);
  A scale[1], sums = A(0), dots = A(0);
  read_terms(at.idle ? nullptr : f.scale, at.plane, A(1), scale);
  const int64_t start = (at.plane * g.width + at.first) * V;
  const T* dy = static_cast<const T*>(f.dy) + start;
  const T* y = static_cast<const T*>(f.y) + start;
  const T* x = f.dots ? static_cast<const T*>(f.x) + start : nullptr;
  T* dx = static_cast<T*>(f.dx) + start;
  const int count = at.idle ? 0 : at.count;
  for (int p = at.lane; p < count; p += kAtOnce * g.lanes) {
    Vec<T, V> of_dy[kAtOnce], of_y[kAtOnce], of_x[kAtOnce] = {};
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const int q = p + d * g.lanes;
      if (q >= count) break;
      const int64_t i = static_cast<int64_t>(q) * V;
      of_dy[d] = read<V>(dy + i);
      of_y[d] = read<V>(y + i);
      if (x) of_x[d] = read<V>(x + i);
    }
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const int q = p + d * g.lanes;
      if (q >= count) break;
      A result[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const A du = load(of_dy[d].at(v)) * curve_slope(c, load(of_y[d].at(v)));
        result[v] = du * scale[0];
        sums += du;
        if (x) dots += du * load(of_x[d].at(v));
      }
      write(dx + static_cast<int64_t>(q) * V, rounded<T>(result));
    }
  }
  if (!f.sums) return;
  pool[threadIdx.x] = sums;
  pool[kThreads + threadIdx.x] = dots;
  __syncthreads();
  // Slot r is the plane of row r: this thread's own one counts rows from at.row.
  const auto put = [&](A* all, int row, A total) {
    const int64_t plane = at.plane - at.row + row;
    if (plane < g.planes) all[plane % g.channels] = total;
  };
  for (int half = 0; half < (x ? 2 : 1); ++half)
    sum_slots(pool + half * kThreads, g.rows, g.lanes, g.lanes, [&](int row, A total) {
      const int64_t sample = (at.plane - at.row + row) / g.channels;
      const Sums<A> to(f, scratch, sample, at.chunk, g.chunks, g.channels);
      put(half ? to.dots : to.sums, row, total);
    });
}

// Sum the rows that the blocks of a sample have left; one block takes kWarp columns.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    gather_sums(BiasActBackward f, const A* scratch, int chunks, int channels, int tiles) {
  constexpr int kGroups = kThreads / kWarp;
  __shared__ A pool[kGroups][kWarp];
  const int64_t sample = blockIdx.x / tiles;
  const int lane = threadIdx.x % kWarp, group = threadIdx.x / kWarp;
  const int column = (blockIdx.x % tiles) * kWarp + lane, width = f.dots ? 2 * channels : channels;
  A total = A(0);
  if (column < width) {
    const A* from = scratch + sample * chunks * 2 * channels + column;
#pragma unroll 4
    for (int k = group; k < chunks; k += kGroups)
      total += from[static_cast<int64_t>(k) * 2 * channels];
  }
  pool[group][lane] = total;
  __syncthreads();
  if (group > 0 || column >= width) return;
  for (int k = 1; k < kGroups; ++k) total += pool[k][lane];
  A* to = static_cast<A*>(column < channels ? f.sums : f.dots) + sample * channels;
  to[column < channels ? column : column - channels] = total;
}

// The noise of a pixel is shared by all channels; one thread sums them, `stride` numbers apart.
template <typename T>
__global__ void __launch_bounds__(kThreads) noise_sums(BiasActBackward f, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (q >= s.batch * s.pixels) return;
  const int64_t n = q / s.pixels, stride = s.channels_last ? 1 : s.pixels;
  const int64_t start = s.channels_last ? q * s.channels : n * s.channels * s.pixels + q % s.pixels;
  const T* dy = static_cast<const T*>(f.dy) + start;
  const T* y = static_cast<const T*>(f.y) + start;
  A total = A(0);
#pragma unroll 4
  for (int64_t i = 0; i < s.channels * stride; i += stride)
    total += load(dy[i]) * curve_slope(c, load(y[i]));
  static_cast<A*>(f.dnoise)[q] = total;
}

// -- launchers ------------------------------------------------------------------------------------

template <typename T>
bool wide(const BiasActBackward& f) {
  return wide<T>(f.shape, {f.dy, f.y, f.x, f.dx});
}

template <typename T, int V>
int chunks_of(const BiasActShape& s) {
  return s.channels_last ? PixelGrid(s.batch, s.pixels, s.channels, V).chunks
                         : PlaneGrid(s.batch, s.pixels, s.channels, V).chunks;
}

template <typename T, int V>
cudaError_t backward(BiasActBackward f, void* scratch, cudaStream_t stream) {
  const auto c = curve_of<Acc<T>>(f.shape);
  const BiasActShape s = merged(f.shape, f.shape.channels_last && !f.scale && !f.sums);
  bool noise_left = f.dnoise != nullptr;
  cudaError_t error;
  if (s.channels_last) {
    const PixelGrid g(s.batch, s.pixels, s.channels, V);
    BiasActBackward most = f;
    if (g.tiles > 1) most.dnoise = nullptr;  // no block sees all channels of a pixel
    noise_left = noise_left && !most.dnoise;
    error = launch(backward_last<T, V>, g.blocks(), g.threads(), stream, most, g, c, scratch);
  } else {
    const PlaneGrid g(s.batch, s.pixels, s.channels, V);
    error = launch(backward_first<T, V>, g.blocks(), g.threads(), stream, f, g, c, scratch);
  }
  const int chunks = chunks_of<T, V>(s), channels = static_cast<int>(s.channels);
  if (error == cudaSuccess && f.sums && chunks > 1) {
    const int tiles = static_cast<int>(pieces(f.dots ? 2 * s.channels : s.channels, kWarp));
    error = launch(gather_sums<Acc<T>>, s.batch * tiles, kThreads, stream, f,
                   static_cast<const Acc<T>*>(scratch), chunks, channels, tiles);
  }
  if (error == cudaSuccess && noise_left)
    error = launch(noise_sums<T>, pieces(s.batch * s.pixels, kThreads), kThreads, stream, f, c);
  return error;
}

}  // namespace

int64_t bias_act_scratch(DType d, const BiasActBackward& f) {
  if (!f.sums) return 0;
  int64_t chunks = 0;
  DG_DISPATCH(d, chunks = wide<T>(f) ? chunks_of<T, kWide<T>>(f.shape) : chunks_of<T, 1>(f.shape))
  return chunks > 1 ? f.shape.batch * chunks * 2 * f.shape.channels : 0;
}

cudaError_t bias_act_backward(DType d, const BiasActBackward& f, void* scratch,
                              cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(d, error = wide<T>(f) ? backward<T, kWide<T>>(f, scratch, stream)
                                    : backward<T, 1>(f, scratch, stream))
  return error;
}

}  // namespace dg
