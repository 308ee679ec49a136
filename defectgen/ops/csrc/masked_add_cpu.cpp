// masked_add on the CPU. One unit is one row of one sample.
#include "cpu.h"

namespace dg {
namespace {

template <typename A>
void gate_row(const MaskedAdd& f, int64_t n, int64_t row) {
  const A* logits = static_cast<const A*>(f.logits) + n * f.small_height * f.small_width;
  const int64_t at = (n * f.height + row) * f.width;
  A* level = static_cast<A*>(f.level) + at;
  for (int64_t i = 0; i < f.width; ++i) {
    level[i] = upsampled(logits, f.small_width, f.first_row,
                         static_cast<const A*>(f.row_weights), f.first_column,
                         static_cast<const A*>(f.column_weights), row, i);
    f.gate[at + i] = level[i] >= A(0) && (!f.within || f.within[at + i]);
  }
}

template <typename T>
void add_row(const MaskedAdd& f, int64_t n, int64_t row) {
  const int64_t C = f.channels, at = (n * f.height + row) * f.width;
  const T* x = static_cast<const T*>(f.x);
  const T* r = static_cast<const T*>(f.residual);
  T* out = static_cast<T*>(f.out);
  const uint8_t* gate = f.gate + at;
  if (f.channels_last) {
    for (int64_t i = 0; i < f.width; ++i) {
      const int64_t p = (at + i) * C;
      if (gate[i]) {
#pragma GCC ivdep
        for (int64_t k = p; k < p + C; ++k) out[k] = store<T>(load(x[k]) + load(r[k]));
      } else {
        std::memcpy(out + p, x + p, C * sizeof(T));
      }
    }
    return;
  }
  for (int64_t k = 0; k < C; ++k) {
    const int64_t p = ((n * C + k) * f.height + row) * f.width;
#pragma GCC ivdep
    for (int64_t i = 0; i < f.width; ++i)
      out[p + i] = gate[i] ? store<T>(load(x[p + i]) + load(r[p + i])) : x[p + i];
  }
}

// A pixel of the backward pass lies `stride` numbers from the same pixel of the next channel.
template <typename T>
void backward(const MaskedAddBackward& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const T* dy = static_cast<const T*>(f.dy);
  const T* r = static_cast<const T*>(f.residual);
  T* dr = static_cast<T*>(f.dresidual);
  const int64_t C = f.channels;
  for (int64_t q = begin; q < end; ++q) {
    const int64_t n = q / f.pixels, p = q % f.pixels;
    const int64_t start = f.channels_last ? q * C : n * C * f.pixels + p;
    const int64_t stride = f.channels_last ? 1 : f.pixels;
    const bool open = f.gate[q];
    for (int64_t k = 0; k < C; ++k) {
      const int64_t i = start + k * stride;
      dr[i] = open ? dy[i] : store<T>(A(0));
    }
    if (!r) continue;
    A total = A(0);
    if (!f.within || f.within[q]) {
      Lanes<A> lanes;
      lanes.add(C, [&](int64_t k) { return load(dy[start + k * stride]) * load(r[start + k * stride]); });
      total = lanes.sum() * surrogate_slope(static_cast<const A*>(f.level)[q], A(f.steepness));
    }
    static_cast<A*>(f.dlevel)[q] = total;
  }
}

}  // namespace

int64_t masked_add_units(const MaskedAdd& f) { return f.batch * f.height; }

void masked_add(DType d, const MaskedAdd& f, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / f.height, row = unit % f.height;
    DG_DISPATCH(d, gate_row<Acc<T>>(f, n, row); add_row<T>(f, n, row))
  }
}

int64_t masked_add_backward_units(const MaskedAddBackward& f) { return f.batch * f.pixels; }

void masked_add_backward(DType d, const MaskedAddBackward& f, int64_t begin, int64_t end) {
  DG_DISPATCH(d, backward<T>(f, begin, end))
}

}  // namespace dg
