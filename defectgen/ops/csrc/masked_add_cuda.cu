// masked_add on the GPU. A block upsamples the logits of its pixels once and keeps the gates in
// shared memory; residuals behind closed gates are never read.
#include "cuda_sums.cuh"
#include "launchers.h"

namespace dg {
namespace {

// Vectors of each operand that a thread asks for before it uses the first.
constexpr int kAtOnce = 4;

// Upsample and gate the pixels of a block, `first` counted within the sample. One of the blocks
// that share these pixels writes them to memory.
template <typename A>
__device__ void open_gates(const MaskedAdd& f, int64_t sample, int64_t first, int count,
                           bool writes, uint8_t* gates) {
  const int64_t pixels = f.height * f.width, top = first / f.width;
  const int left = static_cast<int>(first % f.width), width = static_cast<int>(f.width);
  const A* logits = static_cast<const A*>(f.logits) + sample * f.small_height * f.small_width;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const A level = upsampled(
        logits, f.small_width, f.first_row, static_cast<const A*>(f.row_weights), f.first_column,
        static_cast<const A*>(f.column_weights), top + (left + i) / width, (left + i) % width);
    const int64_t q = sample * pixels + first + i;
    const uint8_t gate = level >= A(0) && (!f.within || f.within[q]);
    gates[i] = gate;
    if (!writes) continue;
    static_cast<A*>(f.level)[q] = level;
    f.gate[q] = gate;
  }
  __syncthreads();
}

template <typename T, int V>
__device__ __forceinline__ Vec<T, V> sum(const Vec<T, V>& x, const Vec<T, V>& r) {
  Acc<T> y[V];
#pragma unroll
  for (int v = 0; v < V; ++v) y[v] = load(x.at(v)) + load(r.at(v));
  return rounded<T>(y);
}

// -- channels last --------------------------------------------------------------------------------

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) add_last(MaskedAdd f, PixelGrid g) {
  __shared__ uint8_t gates[kThreads * kMostSteps];
  const Pixels at(g, V);
  open_gates<Acc<T>>(f, at.sample, at.first - at.sample * g.pixels, at.count, at.tile == 0, gates);
  if (at.idle) return;
  const int64_t start = at.first * g.channels + at.channel;
  const T* x = static_cast<const T*>(f.x) + start;
  const T* r = static_cast<const T*>(f.residual) + start;
  T* out = static_cast<T*>(f.out) + start;
  for (int p = at.row; p < at.count; p += kAtOnce * g.rows) {
    Vec<T, V> of_x[kAtOnce], of_r[kAtOnce];
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      of_x[d] = read<V>(x + static_cast<int64_t>(q) * g.channels);
      if (gates[q]) of_r[d] = read<V>(r + static_cast<int64_t>(q) * g.channels);
    }
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      T* to = out + static_cast<int64_t>(q) * g.channels;
      write(to, gates[q] ? sum(of_x[d], of_r[d]) : of_x[d]);
    }
  }
}

// -- channels first: a thread keeps its pixels and steps down the channels ------------------------

// Channels of a block; more would leave too few blocks, fewer would upsample more often.
constexpr int kChannels = 32;

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) add_first(MaskedAdd f, int chunks, int groups) {
  __shared__ uint8_t gates[kThreads * V];
  const int64_t pixels = f.height * f.width, sample = blockIdx.x / chunks / groups;
  const int group = blockIdx.x / chunks % groups;
  const int64_t first = static_cast<int64_t>(blockIdx.x % chunks) * kThreads * V;
  const int count = static_cast<int>(pixels - first < kThreads * V ? pixels - first : kThreads * V);
  open_gates<Acc<T>>(f, sample, first, count, group == 0, gates);
  const int own = threadIdx.x * V;
  if (own >= count) return;
  bool open[V], any = false;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    open[v] = gates[own + v];
    any = any || open[v];
  }
  const int64_t begin = static_cast<int64_t>(group) * kChannels;
  const int channels = static_cast<int>(
      f.channels - begin < kChannels ? f.channels - begin : static_cast<int64_t>(kChannels));
  const int64_t start = (sample * f.channels + begin) * pixels + first + own;
  const T* x = static_cast<const T*>(f.x) + start;
  const T* r = static_cast<const T*>(f.residual) + start;
  T* out = static_cast<T*>(f.out) + start;
  for (int k = 0; k < channels; k += kAtOnce) {
    Vec<T, V> of_x[kAtOnce], of_r[kAtOnce] = {};
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      if (k + d >= channels) break;
      of_x[d] = read<V>(x + (k + d) * pixels);
      if (any) of_r[d] = read<V>(r + (k + d) * pixels);
    }
#pragma unroll
    for (int d = 0; d < kAtOnce; ++d) {
      if (k + d >= channels) break;
      if (any) {
        Acc<T> y[V];
#pragma unroll
        for (int v = 0; v < V; ++v)
          y[v] = open[v] ? load(of_x[d].at(v)) + load(of_r[d].at(v)) : load(of_x[d].at(v));
        of_x[d] = rounded<T>(y);
      }
      write(out + (k + d) * pixels, of_x[d]);
    }
  }
}

// -- backward -------------------------------------------------------------------------------------

// The sum over channels of dy * residual, times the slope of the surrogate.
template <typename A>
__device__ __forceinline__ A level_gradient(const MaskedAddBackward& f, int64_t q, A total) {
  if (f.within && !f.within[q]) return A(0);
  return total * surrogate_slope(static_cast<const A*>(f.level)[q], static_cast<A>(f.steepness));
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) backward_last(MaskedAddBackward f, PixelGrid g) {
  using A = Acc<T>;
  __shared__ A pool[kPool];
  const Pixels at(g, V);
  const int64_t start = at.first * g.channels + at.channel;
  const T* dy = static_cast<const T*>(f.dy) + start;
  const T* r = f.residual ? static_cast<const T*>(f.residual) + start : nullptr;
  T* dr = static_cast<T*>(f.dresidual) + start;
  const uint8_t* gate = f.gate + at.first;
  const int count = at.idle ? 0 : at.count, pitch = odd_pitch(g.lanes);
  for (int base = 0; base < at.count; base += kWaiting * g.rows) {
#pragma unroll 1
    for (int step = 0; step < kWaiting; step += kAtOnce) {
      const int p = base + step * g.rows + at.row;
      Vec<T, V> of_dy[kAtOnce], of_r[kAtOnce] = {};
      bool open[kAtOnce];
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        const int q = p + d * g.rows;
        if (q >= count) break;
        of_dy[d] = {};
        open[d] = gate[q];
        const int64_t i = static_cast<int64_t>(q) * g.channels;
        if (open[d] || r) of_dy[d] = read<V>(dy + i);
        if (r) of_r[d] = read<V>(r + i);
      }
#pragma unroll
      for (int d = 0; d < kAtOnce; ++d) {
        const int q = p + d * g.rows;
        if (q >= count) break;
        A total = A(0);
#pragma unroll
        for (int v = 0; v < V; ++v) total += load(of_dy[d].at(v)) * load(of_r[d].at(v));
        if (r) pool[((step + d) * g.rows + at.row) * pitch + at.lane] = total;
        if (!open[d]) of_dy[d] = {};
        write(dr + static_cast<int64_t>(q) * g.channels, of_dy[d]);
      }
    }
    if (!r) continue;
    __syncthreads();
    const int left = at.count - base, most = kWaiting * g.rows;
    sum_slots(pool, left < most ? left : most, pitch, g.lanes, [&](int slot, A total) {
      const int64_t q = at.first + base + slot;
      static_cast<A*>(f.dlevel)[q] = level_gradient(f, q, total);
    });
    __syncthreads();
  }
}

// Where channels come first, or are too many for a block: a thread takes all channels of one pixel,
// `stride` numbers apart.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_pixel(MaskedAddBackward f) {
  using A = Acc<T>;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (q >= f.batch * f.pixels) return;
  const int64_t stride = f.channels_last ? 1 : f.pixels, n = q / f.pixels;
  const int64_t start = f.channels_last ? q * f.channels : n * f.channels * f.pixels + q % f.pixels;
  const T* dy = static_cast<const T*>(f.dy) + start;
  const T* r = f.residual ? static_cast<const T*>(f.residual) + start : nullptr;
  T* dr = static_cast<T*>(f.dresidual) + start;
  const bool open = f.gate[q];
  A total = A(0);
#pragma unroll 4
  for (int64_t i = 0; i < f.channels * stride; i += stride) {
    const T value = open || r ? dy[i] : store<T>(A(0));
    if (r) total += load(value) * load(r[i]);
    dr[i] = open ? value : store<T>(A(0));
  }
  if (r) static_cast<A*>(f.dlevel)[q] = level_gradient(f, q, total);
}

// -- launchers ------------------------------------------------------------------------------------

template <typename T, int V>
cudaError_t add(const MaskedAdd& f, cudaStream_t stream) {
  const int64_t pixels = f.height * f.width;
  if (f.channels_last) {
    const PixelGrid g(f.batch, pixels, f.channels, V);
    return launch(add_last<T, V>, g.blocks(), g.threads(), stream, f, g);
  }
  const int chunks = static_cast<int>(pieces(pixels, kThreads * V));
  const int groups = static_cast<int>(pieces(f.channels, kChannels));
  return launch(add_first<T, V>, f.batch * chunks * groups, kThreads, stream, f, chunks, groups);
}

template <typename T, int V>
cudaError_t backward(const MaskedAddBackward& f, cudaStream_t stream) {
  if (f.channels_last) {
    const PixelGrid g(f.batch, f.pixels, f.channels, V);
    if (g.tiles == 1 || !f.residual)
      return launch(backward_last<T, V>, g.blocks(), g.threads(), stream, f, g);
  }
  return launch(backward_pixel<T>, pieces(f.batch * f.pixels, kThreads), kThreads, stream, f);
}

}  // namespace

cudaError_t masked_add(DType d, const MaskedAdd& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(
      d, error = wide<T>(f.channels_last, f.channels, f.height * f.width, {f.x, f.residual, f.out})
                     ? add<T, kWide<T>>(f, stream)
                     : add<T, 1>(f, stream))
  return error;
}

cudaError_t masked_add_backward(DType d, const MaskedAddBackward& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(
      d, error = wide<T>(f.channels_last, f.channels, f.pixels, {f.dy, f.residual, f.dresidual})
                     ? backward<T, kWide<T>>(f, stream)
                     : backward<T, 1>(f, stream))
  return error;
}

}  // namespace dg
