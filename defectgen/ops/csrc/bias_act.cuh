// What the two CUDA files of bias_act share.
#pragma once

#include "cuda.cuh"

namespace dg {

// Without terms of their own, samples are as good as pixels: fewer and fuller blocks.
inline BiasActShape merged(BiasActShape s, bool merge) {
  if (merge) {
    s.pixels *= s.batch;
    s.batch = 1;
  }
  return s;
}

template <typename T>
bool wide(const BiasActShape& s, std::initializer_list<const void*> pointers) {
  return wide<T>(s.channels_last, s.channels, s.pixels, pointers);
}

}  // namespace dg
