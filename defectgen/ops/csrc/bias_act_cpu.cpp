// bias_act on the CPU. Torch-free: the binding splits the work and calls the functions at the end.
#include "cpu.h"

namespace dg {
namespace {

// Channels last: one unit is a stretch of kStretch pixels of one sample.

template <typename T>
void forward_last(const BiasActForward& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t C = s.channels;
  const Curve<A> c = curve_of<A>(s);
  const Filled<A> scale(f.scale, C, A(1)), bias(f.bias, C, A(0)), post(f.post, C, A(1));
  Row<T> row(C);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Stretch at(s, unit);
    const A* sc = scale.row(at.sample);
    const A* bi = bias.row(0);
    const A* po = post.row(at.sample);
    for (int64_t p = at.first; p < at.last; ++p) {
      const T* x = static_cast<const T*>(f.x) + p * C;
      T* target = static_cast<T*>(f.out) + p * C;
      A* out = row.open(target);
      const A n = f.noise ? static_cast<const A*>(f.noise)[p] : A(0);
#pragma GCC ivdep
      for (int64_t i = 0; i < C; ++i)
        out[i] = curve(c, load(x[i]) * sc[i] + (n + bi[i])) * po[i];
      row.close(target, C);
    }
  }
}

template <typename T>
void tangent_last(const BiasActTangent& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t C = s.channels;
  const Curve<A> c = curve_of<A>(s);
  const Filled<A> scale(f.scale, C, A(1)), dscale(f.dscale, C, A(0)), dbias(f.dbias, C, A(0));
  Row<T> row(C);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Stretch at(s, unit);
    const A* sc = scale.row(at.sample);
    const A* ds = dscale.row(at.sample);
    const A* db = dbias.row(at.sample);
    for (int64_t p = at.first; p < at.last; ++p) {
      const T* y = static_cast<const T*>(f.y) + p * C;
      const T* a = f.a ? static_cast<const T*>(f.a) + p * C : nullptr;
      const T* x = f.dscale ? static_cast<const T*>(f.x) + p * C : nullptr;
      T* target = static_cast<T*>(f.out) + p * C;
      A* out = row.open(target);
      const A n = f.dnoise ? static_cast<const A*>(f.dnoise)[p] : A(0);
      if (a && x) {
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i)
          out[i] = curve_slope(c, load(y[i])) *
                   (load(a[i]) * sc[i] + load(x[i]) * ds[i] + (n + db[i]));
      } else if (a) {
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i)
          out[i] = curve_slope(c, load(y[i])) * (load(a[i]) * sc[i] + (n + db[i]));
      } else {
        for (int64_t i = 0; i < C; ++i)
          out[i] = curve_slope(c, load(y[i])) * ((x ? load(x[i]) * ds[i] : A(0)) + (n + db[i]));
      }
      row.close(target, C);
    }
  }
}

// Sums over pixels go into one row per stretch, so that their order, and so every bit of the result,
// is the same for any number of threads.
template <typename T>
void backward_last(const BiasActBackward& f, void* partial, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t C = s.channels;
  const Curve<A> c = curve_of<A>(s);
  const Filled<A> scale(f.scale, C, A(1));
  Row<T> row(C);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Stretch at(s, unit);
    const A* sc = scale.row(at.sample);
    A* sums = f.sums ? static_cast<A*>(partial) + unit * 2 * C : nullptr;
    A* dots = sums + C;
    if (sums) std::memset(sums, 0, 2 * C * sizeof(A));
    for (int64_t p = at.first; p < at.last; ++p) {
      const T* dy = static_cast<const T*>(f.dy) + p * C;
      const T* y = static_cast<const T*>(f.y) + p * C;
      T* target = static_cast<T*>(f.dx) + p * C;
      A* dx = row.open(target);
      if (sums && f.dots) {
        const T* x = static_cast<const T*>(f.x) + p * C;
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i) {
          const A du = load(dy[i]) * curve_slope(c, load(y[i]));
          dx[i] = du * sc[i];
          sums[i] += du;
          dots[i] += du * load(x[i]);
        }
      } else if (sums) {
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i) {
          const A du = load(dy[i]) * curve_slope(c, load(y[i]));
          dx[i] = du * sc[i];
          sums[i] += du;
        }
      } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < C; ++i)
          dx[i] = load(dy[i]) * curve_slope(c, load(y[i])) * sc[i];
      }
      row.close(target, C);
      if (f.dnoise) {
        Lanes<A> total;
        total.add(C, [&](int64_t i) { return load(dy[i]) * curve_slope(c, load(y[i])); });
        static_cast<A*>(f.dnoise)[p] = total.sum();
      }
    }
  }
}

// Channels first: one unit is the plane of one sample and channel.

template <typename T>
void forward_first(const BiasActForward& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t P = s.pixels;
  const Curve<A> c = curve_of<A>(s);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Plane<A> at(s, unit);
    const T* x = static_cast<const T*>(f.x) + unit * P;
    T* out = static_cast<T*>(f.out) + unit * P;
    const A sc = at.of(f.scale, A(1)), po = at.of(f.post, A(1)), bi = at.of_channel(f.bias);
    const A* n = at.pixels_of(f.noise, P);
    if (n) {
#pragma GCC ivdep
      for (int64_t i = 0; i < P; ++i)
        out[i] = store<T>(curve(c, load(x[i]) * sc + (n[i] + bi)) * po);
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < P; ++i) out[i] = store<T>(curve(c, load(x[i]) * sc + bi) * po);
    }
  }
}

template <typename T>
void tangent_first(const BiasActTangent& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t P = s.pixels;
  const Curve<A> c = curve_of<A>(s);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Plane<A> at(s, unit);
    const T* y = static_cast<const T*>(f.y) + unit * P;
    const T* a = f.a ? static_cast<const T*>(f.a) + unit * P : nullptr;
    const T* x = f.dscale ? static_cast<const T*>(f.x) + unit * P : nullptr;
    T* out = static_cast<T*>(f.out) + unit * P;
    const A sc = at.of(f.scale, A(1)), ds = at.of(f.dscale, A(0)), db = at.of(f.dbias, A(0));
    const A* n = at.pixels_of(f.dnoise, P);
    for (int64_t i = 0; i < P; ++i) {
      A u = (n ? n[i] : A(0)) + db;
      if (a) u += load(a[i]) * sc;
      if (x) u += load(x[i]) * ds;
      out[i] = store<T>(curve_slope(c, load(y[i])) * u);
    }
  }
}

template <typename T>
void backward_first(const BiasActBackward& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t P = s.pixels;
  const Curve<A> c = curve_of<A>(s);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Plane<A> at(s, unit);
    const T* dy = static_cast<const T*>(f.dy) + unit * P;
    const T* y = static_cast<const T*>(f.y) + unit * P;
    T* dx = static_cast<T*>(f.dx) + unit * P;
    const A sc = at.of(f.scale, A(1));
#pragma GCC ivdep
    for (int64_t i = 0; i < P; ++i)
      dx[i] = store<T>(load(dy[i]) * curve_slope(c, load(y[i])) * sc);
    if (f.sums) {
      Lanes<A> total;
      total.add(P, [&](int64_t i) { return load(dy[i]) * curve_slope(c, load(y[i])); });
      static_cast<A*>(f.sums)[unit] = total.sum();
    }
    if (f.dots) {
      const T* x = static_cast<const T*>(f.x) + unit * P;
      Lanes<A> total;
      total.add(P, [&](int64_t i) { return load(dy[i]) * curve_slope(c, load(y[i])) * load(x[i]); });
      static_cast<A*>(f.dots)[unit] = total.sum();
    }
  }
}

// The noise of a pixel is shared by all planes of a sample: one unit is a sample.
template <typename T>
void noise_first(const BiasActBackward& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const Curve<A> c = curve_of<A>(s);
  for (int64_t n = begin; n < end; ++n) {
    A* out = static_cast<A*>(f.dnoise) + n * s.pixels;
    std::memset(out, 0, s.pixels * sizeof(A));
    for (int64_t k = n * s.channels; k < (n + 1) * s.channels; ++k) {
      const T* dy = static_cast<const T*>(f.dy) + k * s.pixels;
      const T* y = static_cast<const T*>(f.y) + k * s.pixels;
#pragma GCC ivdep
      for (int64_t i = 0; i < s.pixels; ++i) out[i] += load(dy[i]) * curve_slope(c, load(y[i]));
    }
  }
}

template <typename T>
void gather_sums(const BiasActBackward& f, const void* partial) {
  using A = Acc<T>;
  const auto& s = f.shape;
  const int64_t C = s.channels, per = stretches_per_sample(s);
  for (int64_t n = 0; n < s.batch; ++n) {
    A* sums = static_cast<A*>(f.sums) + n * C;
    A* dots = f.dots ? static_cast<A*>(f.dots) + n * C : nullptr;
    std::memset(sums, 0, C * sizeof(A));
    if (dots) std::memset(dots, 0, C * sizeof(A));
    for (int64_t k = n * per; k < (n + 1) * per; ++k) {
      const A* row = static_cast<const A*>(partial) + k * 2 * C;
      for (int64_t i = 0; i < C; ++i) sums[i] += row[i];
      for (int64_t i = 0; dots && i < C; ++i) dots[i] += row[C + i];
    }
  }
}

}  // namespace

int64_t bias_act_units(const BiasActShape& s) {
  return s.channels_last ? s.batch * stretches_per_sample(s) : s.batch * s.channels;
}

void bias_act_forward(DType d, const BiasActForward& f, int64_t begin, int64_t end) {
  if (bias_act_in_runs(d, f.shape)) return bias_act_forward_runs(f, begin, end);
  DG_DISPATCH(d, f.shape.channels_last ? forward_last<T>(f, begin, end)
                                       : forward_first<T>(f, begin, end))
}

void bias_act_tangent(DType d, const BiasActTangent& f, int64_t begin, int64_t end) {
  DG_DISPATCH(d, f.shape.channels_last ? tangent_last<T>(f, begin, end)
                                       : tangent_first<T>(f, begin, end))
}

void bias_act_backward(DType d, const BiasActBackward& f, void* partial, int64_t begin,
                       int64_t end) {
  if (bias_act_in_runs(d, f.shape)) return bias_act_backward_runs(f, partial, begin, end);
  DG_DISPATCH(d, f.shape.channels_last ? backward_last<T>(f, partial, begin, end)
                                       : backward_first<T>(f, begin, end))
}

void bias_act_sums(DType d, const BiasActBackward& f, const void* partial) {
  DG_DISPATCH(d, gather_sums<T>(f, partial))
}

void bias_act_noise(DType d, const BiasActBackward& f, int64_t begin, int64_t end) {
  DG_DISPATCH(d, noise_first<T>(f, begin, end))
}

}  // namespace dg
