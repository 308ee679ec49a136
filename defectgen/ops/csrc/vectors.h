// Features on the CPU as vectors of neighboring channels.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "hd.h"

namespace dg {

// Numbers of a vector: what one register holds.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float))));

inline Vector read(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void write(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

// The same for bfloat16 in memory, whose bits are the upper half of a float's.
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves
    __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(sizeof(uint16_t))));

inline Vector read(const BFloat16* from) {
  const Halves upper = *reinterpret_cast<const Halves*>(from);
  return (Vector)(__builtin_convertvector(upper, Bits) << 16);
}
inline void write(BFloat16* to, Vector v) {
#ifdef __AVX512BF16__
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(to, &rounded, sizeof(rounded));
#else
  // As store, which is slow lane by lane.
  const Bits bits = (Bits)v, nearest = bits + (0x7fffu + ((bits >> 16) & 1u));
  const Bits quiet = bits | 0x00400000u;
  const Bits upper = (v == v ? nearest : quiet) >> 16;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(upper, Halves);
#endif
}

// body(read, write, c) for vectors of channels, then for the numbers that are left: of doubles and
// halves, which no network has here, all.
template <typename T, typename Body>
inline void each_channel(int64_t channels, Body body) {
  int64_t c = 0;
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, BFloat16>)
    for (; c + kLanes <= channels; c += kLanes)
      body([](const auto* p) { return read(p); }, [](auto* p, Vector v) { write(p, v); }, c);
  for (; c < channels; ++c)
    body([](const auto* p) { return load(*p); },
         [](auto* p, auto v) { *p = store<std::remove_pointer_t<decltype(p)>>(v); }, c);
}

}  // namespace dg
