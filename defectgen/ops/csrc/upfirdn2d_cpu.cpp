// upfirdn2d on the CPU: columns of taps first into a row buffer, then rows of taps out of it.
#include "cpu.h"

namespace dg {
namespace {

// Where each output of a line finds its taps: told once, for divisions cost more than a few channels.
struct Line {
  struct Place {
    int64_t at;
    int tap, count;
  };
  std::vector<Place> places;
  explicit Line(const Axis& axis) : places(axis.out) {
    for (int64_t o = 0; o < axis.out; ++o)
      axis_taps(axis, o, &places[o].tap, &places[o].at, &places[o].count);
  }
};

// dst[i] = sum over the taps of row `o` of weight * source row; `width` numbers per row.
template <typename T>
void combine_rows(const UpFirDn& f, const T* x, int64_t o, int64_t width, Acc<T>* dst) {
  using A = Acc<T>;
  const A* taps = static_cast<const A*>(f.taps);
  int k, count;
  int64_t at;
  axis_taps(f.rows, o, &k, &at, &count);
  const int step = f.rows.up;
  const T* r = x + at * width;
  if (count == 4) {
    const A a = taps[k], b = taps[k + step], c = taps[k + 2 * step], d = taps[k + 3 * step];
    const T *r1 = r + width, *r2 = r1 + width, *r3 = r2 + width;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i)
      dst[i] = load(r[i]) * a + load(r1[i]) * b + load(r2[i]) * c + load(r3[i]) * d;
  } else if (count == 2) {
    const A a = taps[k], b = taps[k + step];
    const T* r1 = r + width;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) dst[i] = load(r[i]) * a + load(r1[i]) * b;
  } else {
    std::memset(dst, 0, width * sizeof(A));
    for (int j = 0; j < count; ++j, r += width) {
      const A a = taps[k + j * step];
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) dst[i] += load(r[i]) * a;
    }
  }
}

// One output pixel of channels-last features: C numbers from `count` neighbors in the row buffer.
template <typename A>
void combine_columns(const A* from, const A* taps, int step, int count, int64_t C, A* out) {
  if (count == 4) {
    const A a = taps[0], b = taps[step], c = taps[2 * step], d = taps[3 * step];
    const A *q1 = from + C, *q2 = q1 + C, *q3 = q2 + C;
#pragma GCC ivdep
    for (int64_t i = 0; i < C; ++i)
      out[i] = from[i] * a + q1[i] * b + q2[i] * c + q3[i] * d;
  } else if (count == 2) {
    const A a = taps[0], b = taps[step];
    const A* q1 = from + C;
#pragma GCC ivdep
    for (int64_t i = 0; i < C; ++i) out[i] = from[i] * a + q1[i] * b;
  } else {
    for (int64_t i = 0; i < C; ++i) {
      A value = A(0);
      for (int j = 0; j < count; ++j) value += from[j * C + i] * taps[j * step];
      out[i] = value;
    }
  }
}

// One unit is one output row of one sample.
template <typename T>
void last(const UpFirDn& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t C = f.channels, width = f.columns.in * C;
  const A* taps = static_cast<const A*>(f.taps);
  const Curve<A> c = curve_of<A>(f);
  const Filled<A> scale(f.scale, C, A(1)), bias(f.bias, C, A(0)), post(f.post, C, A(1));
  const Line columns(f.columns);
  std::vector<A> buffer(width);
  Row<T> finished(C);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / f.rows.out, row = unit % f.rows.out;
    combine_rows<T>(f, static_cast<const T*>(f.x) + n * f.rows.in * width, row, width,
                    buffer.data());
    T* target = static_cast<T*>(f.out) + unit * f.columns.out * C;
    const A* noise = f.noise ? static_cast<const A*>(f.noise) + unit * f.columns.out : nullptr;
    const A *sc = scale.row(n), *bi = bias.row(0), *po = post.row(n);
    for (int64_t o = 0; o < f.columns.out; ++o, target += C) {
      const auto [at, tap, count] = columns.places[o];
      const A* from = buffer.data() + at * C;
      A* out = finished.open(target);
      combine_columns(from, taps + tap, f.columns.up, count, C, out);
      if (f.epilogue) {
        const A m = noise ? noise[o] : A(0);
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i) out[i] = curve(c, out[i] * sc[i] + (m + bi[i])) * po[i];
      }
      finished.close(target, C);
    }
  }
}

// One unit is one output row of one plane; neighbors along the row are neighbors in memory.
template <typename T>
void first(const UpFirDn& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const A* taps = static_cast<const A*>(f.taps);
  const Curve<A> c = curve_of<A>(f);
  const Line columns(f.columns);
  std::vector<A> buffer(f.columns.in);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t plane = unit / f.rows.out, row = unit % f.rows.out;
    combine_rows<T>(f, static_cast<const T*>(f.x) + plane * f.rows.in * f.columns.in, row,
                    f.columns.in, buffer.data());
    T* out = static_cast<T*>(f.out) + unit * f.columns.out;
    const int64_t n = plane / f.channels, channel = plane % f.channels;
    const A sc = f.scale ? static_cast<const A*>(f.scale)[plane] : A(1);
    const A po = f.post ? static_cast<const A*>(f.post)[plane] : A(1);
    const A bi = f.bias ? static_cast<const A*>(f.bias)[channel] : A(0);
    const A* noise =
        f.noise ? static_cast<const A*>(f.noise) + (n * f.rows.out + row) * f.columns.out : nullptr;
    for (int64_t o = 0; o < f.columns.out; ++o) {
      const auto [at, tap, count] = columns.places[o];
      A value = A(0);
      for (int j = 0; j < count; ++j) value += buffer[at + j] * taps[tap + j * f.columns.up];
      if (f.epilogue) value = curve(c, value * sc + ((noise ? noise[o] : A(0)) + bi)) * po;
      out[o] = store<T>(value);
    }
  }
}

}  // namespace

int64_t upfirdn2d_units(const UpFirDn& f) {
  return f.batch * f.rows.out * (f.channels_last ? 1 : f.channels);
}

void upfirdn2d(DType d, const UpFirDn& f, int64_t begin, int64_t end) {
  DG_DISPATCH(d, f.channels_last ? last<T>(f, begin, end) : first<T>(f, begin, end))
}

}  // namespace dg
