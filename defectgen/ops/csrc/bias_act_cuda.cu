// bias_act on the GPU: values, and how they move when the inputs move. Every kernel is one pass
// over memory and does little else, so each thread has several 16-byte accesses under way at once.
#include "bias_act.cuh"
#include "launchers.h"

namespace dg {
namespace {

// Vectors of each operand that a thread asks for before it uses the first.
constexpr int kForward = 4;
constexpr int kTangent = 2;

// -- channels last: a thread keeps its channels, so their terms stay in registers -----------------

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    forward_last(BiasActForward f, PixelGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const Pixels at(g, V);
  if (at.idle) return;
  A scale[V], bias[V], post[V];
  read_terms(f.scale, at.sample * g.channels + at.channel, A(1), scale);
  read_terms(f.bias, at.channel, A(0), bias);
  read_terms(f.post, at.sample * g.channels + at.channel, A(1), post);
  const int64_t start = at.first * g.channels + at.channel;
  const T* x = static_cast<const T*>(f.x) + start;
  T* out = static_cast<T*>(f.out) + start;
  const A* noise = f.noise ? static_cast<const A*>(f.noise) + at.first : nullptr;
  for (int p = at.row; p < at.count; p += kForward * g.rows) {
    Vec<T, V> in[kForward];
    A n[kForward];
#pragma unroll
    for (int d = 0; d < kForward; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      in[d] = read<V>(x + static_cast<int64_t>(q) * g.channels);
      n[d] = noise ? __ldg(noise + q) : A(0);
    }
#pragma unroll
    for (int d = 0; d < kForward; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      A y[V];
#pragma unroll
      for (int v = 0; v < V; ++v)
        y[v] = curve(c, load(in[d].at(v)) * scale[v] + (n[d] + bias[v])) * post[v];
      write(out + static_cast<int64_t>(q) * g.channels, rounded<T>(y));
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    tangent_last(BiasActTangent f, PixelGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const Pixels at(g, V);
  if (at.idle) return;
  A scale[V], dscale[V], dbias[V];
  const int64_t terms = at.sample * g.channels + at.channel;
  read_terms(f.scale, terms, A(1), scale);
  read_terms(f.dscale, terms, A(0), dscale);
  read_terms(f.dbias, terms, A(0), dbias);
  const int64_t start = at.first * g.channels + at.channel;
  const T* y = static_cast<const T*>(f.y) + start;
  const T* a = f.a ? static_cast<const T*>(f.a) + start : nullptr;
  const T* x = f.dscale ? static_cast<const T*>(f.x) + start : nullptr;
  T* out = static_cast<T*>(f.out) + start;
  const A* noise = f.dnoise ? static_cast<const A*>(f.dnoise) + at.first : nullptr;
  for (int p = at.row; p < at.count; p += kTangent * g.rows) {
    Vec<T, V> in[kTangent], of_a[kTangent] = {}, of_x[kTangent] = {};
    A n[kTangent];
#pragma unroll
    for (int d = 0; d < kTangent; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      const int64_t i = static_cast<int64_t>(q) * g.channels;
      in[d] = read<V>(y + i);
      if (a) of_a[d] = read<V>(a + i);
      if (x) of_x[d] = read<V>(x + i);
      n[d] = noise ? __ldg(noise + q) : A(0);
    }
#pragma unroll
    for (int d = 0; d < kTangent; ++d) {
      const int q = p + d * g.rows;
      if (q >= at.count) break;
      A u[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        u[v] = n[d] + dbias[v];
        if (a) u[v] += load(of_a[d].at(v)) * scale[v];
        if (x) u[v] += load(of_x[d].at(v)) * dscale[v];
        u[v] *= curve_slope(c, load(in[d].at(v)));
      }
      write(out + static_cast<int64_t>(q) * g.channels, rounded<T>(u));
    }
  }
}

// -- channels first: a thread keeps its plane -----------------------------------------------------

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    forward_first(BiasActForward f, PlaneGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const Planes at(g);
  if (at.idle) return;
  A scale[1], bias[1], post[1];
  read_terms(f.scale, at.plane, A(1), scale);
  read_terms(f.bias, at.channel, A(0), bias);
  read_terms(f.post, at.plane, A(1), post);
  const int64_t start = (at.plane * g.width + at.first) * V;
  const T* x = static_cast<const T*>(f.x) + start;
  T* out = static_cast<T*>(f.out) + start;
  const A* noise =
      f.noise ? static_cast<const A*>(f.noise) + (at.sample * g.width + at.first) * V : nullptr;
  for (int p = at.lane; p < at.count; p += kForward * g.lanes) {
    Vec<T, V> in[kForward];
#pragma unroll
    for (int d = 0; d < kForward; ++d) {
      const int q = p + d * g.lanes;
      if (q < at.count) in[d] = read<V>(x + static_cast<int64_t>(q) * V);
    }
#pragma unroll
    for (int d = 0; d < kForward; ++d) {
      const int q = p + d * g.lanes;
      if (q >= at.count) break;
      A y[V], n[V] = {};
      if (noise) read_exact(noise + static_cast<int64_t>(q) * V, n);
#pragma unroll
      for (int v = 0; v < V; ++v)
        y[v] = curve(c, load(in[d].at(v)) * scale[0] + (n[v] + bias[0])) * post[0];
      write(out + static_cast<int64_t>(q) * V, rounded<T>(y));
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    tangent_first(BiasActTangent f, PlaneGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  const Planes at(g);
  if (at.idle) return;
  A scale[1], dscale[1], dbias[1];
  read_terms(f.scale, at.plane, A(1), scale);
  read_terms(f.dscale, at.plane, A(0), dscale);
  read_terms(f.dbias, at.plane, A(0), dbias);
  const int64_t start = (at.plane * g.width + at.first) * V;
  const T* y = static_cast<const T*>(f.y) + start;
  const T* a = f.a ? static_cast<const T*>(f.a) + start : nullptr;
  const T* x = f.dscale ? static_cast<const T*>(f.x) + start : nullptr;
  T* out = static_cast<T*>(f.out) + start;
  const A* noise =
      f.dnoise ? static_cast<const A*>(f.dnoise) + (at.sample * g.width + at.first) * V : nullptr;
  for (int q = at.lane; q < at.count; q += g.lanes) {
    const int64_t i = static_cast<int64_t>(q) * V;
    const Vec<T, V> in = read<V>(y + i);
    Vec<T, V> of_a = {}, of_x = {};
    if (a) of_a = read<V>(a + i);
    if (x) of_x = read<V>(x + i);
    A u[V] = {};
    if (noise) read_exact(noise + i, u);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      u[v] += dbias[0];
      if (a) u[v] += load(of_a.at(v)) * scale[0];
      if (x) u[v] += load(of_x.at(v)) * dscale[0];
      u[v] *= curve_slope(c, load(in.at(v)));
    }
    write(out + i, rounded<T>(u));
  }
}

// -- launchers ------------------------------------------------------------------------------------

template <typename T, int V>
cudaError_t forward(const BiasActForward& f, cudaStream_t stream) {
  const auto c = curve_of<Acc<T>>(f.shape);
  if (!f.shape.channels_last) {
    const PlaneGrid g(f.shape.batch, f.shape.pixels, f.shape.channels, V);
    return launch(forward_first<T, V>, g.blocks(), g.threads(), stream, f, g, c);
  }
  const BiasActShape s = merged(f.shape, !f.scale && !f.post);
  const PixelGrid g(s.batch, s.pixels, s.channels, V);
  return launch(forward_last<T, V>, g.blocks(), g.threads(), stream, f, g, c);
}

template <typename T, int V>
cudaError_t tangent(const BiasActTangent& f, cudaStream_t stream) {
  const auto c = curve_of<Acc<T>>(f.shape);
  if (!f.shape.channels_last) {
    const PlaneGrid g(f.shape.batch, f.shape.pixels, f.shape.channels, V);
    return launch(tangent_first<T, V>, g.blocks(), g.threads(), stream, f, g, c);
  }
  const BiasActShape s = merged(f.shape, !f.scale && !f.dscale && !f.dbias);
  const PixelGrid g(s.batch, s.pixels, s.channels, V);
  return launch(tangent_last<T, V>, g.blocks(), g.threads(), stream, f, g, c);
}

}  // namespace

cudaError_t bias_act_forward(DType d, const BiasActForward& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(d, error = wide<T>(f.shape, {f.x, f.noise, f.out}) ? forward<T, kWide<T>>(f, stream)
                                                                 : forward<T, 1>(f, stream))
  return error;
}

cudaError_t bias_act_tangent(DType d, const BiasActTangent& f, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  DG_DISPATCH(d, error = wide<T>(f.shape, {f.y, f.a, f.x, f.dnoise, f.out})
                             ? tangent<T, kWide<T>>(f, stream)
                             : tangent<T, 1>(f, stream))
  return error;
}

}  // namespace dg
