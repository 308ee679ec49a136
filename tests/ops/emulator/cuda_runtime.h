// Runs CUDA kernels on the CPU, thread by thread, to prove their logic where there is no GPU.
//
// Every thread of a block is a fiber with a stack of its own. A fiber runs until it ends or waits
// at a barrier for the others of its block or warp; then the next one runs. In which order, the
// variable EMULATOR_ORDER says (forward, backward): results that depend on it betray a missing
// barrier. Wide accesses must be aligned, as on a GPU, and a barrier that some thread misses ends
// the process.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __forceinline__
#define __launch_bounds__(...)
// Blocks run one after the other, so one copy will do.
#define __shared__ static

struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_) : x(x_) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 threadIdx, blockIdx, blockDim;

namespace emulator {

constexpr unsigned kWarp = 32;

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %u)\n", why, blockIdx.x, threadIdx.x);
  std::abort();
}

// Threads that wait for one another.
struct Barrier {
  unsigned arrived = 0, passed = 0;
};

struct Fiber {
  static constexpr size_t kStack = 1 << 16;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool ended = false;
};

struct Block {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  std::function<void()> body;
  Barrier all;
  std::vector<Barrier> warps;
  std::vector<char> exchanged;  // 16 bytes per thread, for shuffles
  unsigned running = 0;
  uint64_t progress = 0;

  void wait(Barrier& barrier, unsigned count) {
    const unsigned turn = barrier.passed;
    ++progress;
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      ++barrier.passed;
      return;
    }
    while (barrier.passed == turn) swapcontext(&fibers[running].context, &scheduler);
  }

  void run(unsigned threads) {
    static const char* order = std::getenv("EMULATOR_ORDER");
    const bool backward = order && std::strcmp(order, "backward") == 0;
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    all = {};
    warps.assign((threads + kWarp - 1) / kWarp, {});
    exchanged.assign(threads * 16, 0);
    for (unsigned i = 0; i < threads; ++i) start(fibers[i]);
    for (unsigned left = threads; left;) {
      const uint64_t before = progress;
      for (unsigned k = 0; k < threads; ++k) {
        running = backward ? threads - 1 - k : k;
        if (fibers[running].ended) continue;
        threadIdx.x = running;
        swapcontext(&scheduler, &fibers[running].context);
        if (fibers[running].ended) --left, ++progress;
      }
      if (left && progress == before) fail("a barrier that not all threads meet");
    }
  }

  void start(Fiber& fiber);
};

inline Block& block() {
  static Block one;
  return one;
}

inline void enter() {
  Block& b = block();
  b.body();
  b.fibers[b.running].ended = true;
  swapcontext(&b.fibers[b.running].context, &b.scheduler);
}

inline void Block::start(Fiber& fiber) {
  fiber.ended = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = Fiber::kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

template <typename T>
void check_aligned(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) fail("an access that is not aligned");
}

}  // namespace emulator

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const unsigned threads = config->blockDim.x;
  if (!threads || threads > 1024 || !config->gridDim.x) return cudaErrorInvalidConfiguration;
  emulator::Block& block = emulator::block();
  block.body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  blockDim = config->blockDim;
  for (blockIdx.x = 0; blockIdx.x < config->gridDim.x; ++blockIdx.x) block.run(threads);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <typename T>
T __ldg(const T* from) {
  emulator::check_aligned(from);
  return *from;
}
template <typename T>
void __stwb(T* to, T value) {
  emulator::check_aligned(to);
  *to = value;
}
inline void __syncthreads() {
  emulator::Block& b = emulator::block();
  b.wait(b.all, blockDim.x);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int reach) {
  emulator::Block& b = emulator::block();
  emulator::Barrier& warp = b.warps[threadIdx.x / emulator::kWarp];
  const unsigned self = threadIdx.x;
  std::memcpy(&b.exchanged[self * 16], &value, sizeof(T));
  b.wait(warp, emulator::kWarp);
  std::memcpy(&value, &b.exchanged[(self ^ static_cast<unsigned>(reach)) * 16], sizeof(T));
  b.wait(warp, emulator::kWarp);
  return value;
}
