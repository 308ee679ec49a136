// Sums of neighboring threads, in an order that never changes.
#pragma once

#include "cuda.cuh"

namespace dg {

template <typename A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int reach = kWarp / 2; reach > 0; reach /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, reach);
  return value;
}

// Sum each of `slots` runs of `lanes` numbers in shared memory, `pitch` apart, in a fixed order,
// and hand it to put(slot, sum). Long runs take a warp each, short ones a thread. All threads call
// this.
template <typename A, typename Put>
__device__ __forceinline__ void sum_slots(const A* pool, int slots, int pitch, int lanes,
                                          const Put& put) {
  if (lanes < kWarp) {
    for (int slot = threadIdx.x; slot < slots; slot += blockDim.x) {
      A total = A(0);
      for (int i = 0; i < lanes; ++i) total += pool[slot * pitch + i];
      put(slot, total);
    }
    return;
  }
  const int own = threadIdx.x % kWarp;
  for (int slot = threadIdx.x / kWarp; slot < slots; slot += blockDim.x / kWarp) {
    A total = A(0);
    for (int i = own; i < lanes; i += kWarp) total += pool[slot * pitch + i];
    total = warp_sum(total);
    if (own == 0) put(slot, total);
  }
}

// Steps of a PixelGrid whose sums over channels wait in shared memory for one another.
constexpr int kWaiting = 8;
// An odd pitch: threads that each read a run of their own then meet in no bank of the memory.
DG_HD int odd_pitch(int lanes) { return lanes | 1; }
// Rows times odd pitch is at most 3/2 of a block: two lanes to a row are the worst case.
constexpr int kPool = kWaiting * (kThreads + kThreads / 2);

}  // namespace dg
