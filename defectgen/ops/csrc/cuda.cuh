// What the CUDA files share: vectors of 16 bytes, how threads lie over features, how kernels start.
//
// Indices are 64 bits wide where a block begins and 32 bits wide inside it, so that tensors of any
// size are safe and no thread pays for it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "bias_act.h"
#include "hd.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace dg {

constexpr int kThreads = 256;  // of a block, at most
constexpr int kWarp = 32;

// -- memory ---------------------------------------------------------------------------------------

// Numbers of one type in 16 bytes, the widest access that a thread can make.
template <typename T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

template <int bytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<2> {
  using type = unsigned short;
};

// V numbers as they lie in memory. They stay one word until they are used: taken apart at once, two
// to a register, they would cost an instruction each wherever they are moved.
template <typename T, int V>
struct Vec {
  using W = typename Word<sizeof(T) * V>::type;
  W word;

  __device__ __forceinline__ T at(int v) const {
    T result;
    memcpy(&result, reinterpret_cast<const char*>(&word) + v * sizeof(T), sizeof(T));
    return result;
  }
};

// Inputs never change while a kernel runs, so they come through the read-only cache.
template <int V, typename T>
__device__ __forceinline__ Vec<T, V> read(const T* from) {
  return {__ldg(reinterpret_cast<const typename Vec<T, V>::W*>(from))};
}

// V numbers of the accumulation type, which may take more than one access.
template <int V, typename A>
__device__ __forceinline__ void read_exact(const A* from, A (&to)[V]) {
  constexpr int W = V == 1 ? 1 : kWide<A>;
#pragma unroll
  for (int i = 0; i < V; i += W) {
    const Vec<A, W> part = read<W>(from + i);
#pragma unroll
    for (int v = 0; v < W; ++v) to[i + v] = part.at(v);
  }
}

// The same where memory may lie anyhow, or where there is none.
template <int V, typename A>
__device__ __forceinline__ void read_terms(const void* from, int64_t at, A otherwise, A (&to)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v)
    to[v] = from ? __ldg(static_cast<const A*>(from) + at + v) : otherwise;
}

template <typename T, int V>
__device__ __forceinline__ Vec<T, V> rounded(const Acc<T> (&y)[V]) {
  alignas(sizeof(T) * V) T numbers[V];
#ifdef __CUDACC__
  // Two numbers per instruction; the bits are those of store<T>, but for what a NaN becomes.
  if constexpr (V % 2 == 0 && std::is_same<T, BFloat16>::value) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(y[v], y[v + 1]);
      memcpy(&numbers[v], &two, sizeof(two));
    }
  } else
#endif
  {
#pragma unroll
    for (int v = 0; v < V; ++v) numbers[v] = store<T>(y[v]);
  }
  Vec<T, V> result;
  memcpy(&result.word, numbers, sizeof(numbers));
  return result;
}

// By an instruction of its own: a plain assignment may be taken apart into four stores.
template <typename T, int V>
__device__ __forceinline__ void write(T* to, const Vec<T, V>& value) {
  __stwb(reinterpret_cast<typename Vec<T, V>::W*>(to), value.word);
}

// Whether features can be read in vectors of 16 bytes: whole ones fit into a row, that is into the
// channels of a pixel or the pixels of a plane, and all memory is aligned to them. Features may be
// a part of a larger tensor.
template <typename T>
bool wide(bool channels_last, int64_t channels, int64_t pixels,
          std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return (channels_last ? channels : pixels) % kWide<T> == 0 && bits % 16 == 0;
}

// The curve at V points. Whether there is a limit is asked once for all of them.
template <int V, typename A>
__device__ __forceinline__ void curve_all(const Curve<A>& c, A (&u)[V]) {
  if (c.clamp >= A(0)) {
#pragma unroll
    for (int v = 0; v < V; ++v) u[v] = curve(c, u[v]);
  } else {
    const Curve<A> unlimited{c.slope, c.gain, A(-1)};
#pragma unroll
    for (int v = 0; v < V; ++v) u[v] = curve(unlimited, u[v]);
  }
}

// -- geometry -------------------------------------------------------------------------------------

// Enough for all multiprocessors of a large GPU, several blocks each. Not asked from the device:
// the order of sums depends on the size of blocks, and results shall not depend on the machine.
constexpr int64_t kManyBlocks = 1024;
constexpr int kMostSteps = 16;  // pixels, or vectors of a plane, that a thread works through

// As many steps as leave that many blocks, where one step of all threads makes `steps_in_all`.
inline int steps_for(int64_t steps_in_all) {
  int steps = kMostSteps;
  while (steps > 4 && steps_in_all / steps < kManyBlocks) steps /= 2;
  return steps;
}

constexpr int round_up(int value, int to) { return (value + to - 1) / to * to; }
constexpr int64_t pieces(int64_t whole, int64_t piece) { return (whole + piece - 1) / piece; }

// Lanes of threads side by side along `width` vectors, as few blocks as can hold it, evenly filled.
inline int even_lanes(int64_t width, int most) {
  return static_cast<int>(pieces(width, pieces(width, most)));
}

// Channels last. A block takes `chunk` pixels of one sample; a thread keeps its vector of channels
// and steps down the pixels, `rows` of them at a time. Neighbors in memory are neighboring threads.
struct PixelGrid {
  int channels, lanes, rows, tiles, chunk, chunks;
  int64_t batch, pixels;

  PixelGrid(int64_t batch_, int64_t pixels_, int64_t channels_, int V)
      : channels(static_cast<int>(channels_)), batch(batch_), pixels(pixels_) {
    const int64_t vectors = channels / V;
    lanes = even_lanes(vectors, kThreads);
    tiles = static_cast<int>(pieces(vectors, lanes));
    rows = kThreads / lanes;
    rows = rows < pixels ? rows : static_cast<int>(pixels);
    chunk = rows * steps_for(batch * tiles * pieces(pixels, rows));
    chunks = static_cast<int>(pieces(pixels, chunk));
  }
  int threads() const { return round_up(lanes * rows, kWarp); }
  int64_t blocks() const { return batch * tiles * chunks; }
};

// Where a thread of it works.
struct Pixels {
  int lane, row, tile, chunk, count;  // count: pixels of this block
  int channel;                        // first channel of this thread
  bool idle;                          // has no place; must still meet the others at barriers
  int64_t sample, first;              // first: pixel of this block, counted over the whole batch

  __device__ Pixels(const PixelGrid& g, int V) {
    unsigned block = blockIdx.x;
    tile = block % g.tiles;
    block /= g.tiles;
    chunk = block % g.chunks;
    sample = block / g.chunks;
    lane = threadIdx.x % g.lanes;
    row = threadIdx.x / g.lanes;
    channel = (tile * g.lanes + lane) * V;
    idle = row >= g.rows || channel >= g.channels;
    const int64_t within = static_cast<int64_t>(chunk) * g.chunk;
    first = sample * g.pixels + within;
    count = static_cast<int>(g.pixels - within < g.chunk ? g.pixels - within : g.chunk);
  }
};

// Channels first. A block takes `rows` planes and of each a chunk of `lanes` times `steps` vectors.
struct PlaneGrid {
  int channels, lanes, rows, steps, chunks;
  int64_t planes, width;  // width: vectors of a plane

  PlaneGrid(int64_t batch, int64_t pixels, int64_t channels_, int V)
      : channels(static_cast<int>(channels_)), planes(batch * channels_), width(pixels / V) {
    lanes = static_cast<int>(width < kThreads ? width : kThreads);
    rows = kThreads / lanes;
    rows = rows < planes ? rows : static_cast<int>(planes);
    steps = lanes < kThreads ? 1 : steps_for(planes * pieces(width, lanes));
    chunks = static_cast<int>(pieces(width, lanes * steps));
  }
  int threads() const { return round_up(lanes * rows, kWarp); }
  int64_t blocks() const { return pieces(planes, rows) * chunks; }
};

struct Planes {
  int lane, row, chunk, count;  // count: vectors of this block along its planes
  bool idle;
  int64_t plane, sample, channel;
  int64_t first;  // vector within the plane

  __device__ Planes(const PlaneGrid& g) {
    chunk = blockIdx.x % g.chunks;
    lane = threadIdx.x % g.lanes;
    row = threadIdx.x / g.lanes;
    plane = static_cast<int64_t>(blockIdx.x / g.chunks) * g.rows + row;
    idle = row >= g.rows || plane >= g.planes;
    sample = plane / g.channels;
    channel = plane % g.channels;
    first = static_cast<int64_t>(chunk) * g.lanes * g.steps;
    const int64_t left = g.width - first, most = static_cast<int64_t>(g.lanes) * g.steps;
    count = static_cast<int>(left < most ? left : most);
  }
};

// -- launching ------------------------------------------------------------------------------------

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
                   const Arguments&... arguments) {
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  const cudaError_t last = cudaGetLastError();
  return error != cudaSuccess ? error : last;
}

}  // namespace dg
