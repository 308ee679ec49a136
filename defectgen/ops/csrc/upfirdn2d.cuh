// What the kernels of upfirdn2d share: strips of output rows, and what bias_act does to a result.
#pragma once

#include "cuda.cuh"
#include "upfirdn2d.h"

namespace dg {

constexpr int kStrip = 8;     // output rows of a thread
constexpr int kTaps = 4;      // of the filters that strips are made for
constexpr int kResident = 2;  // blocks that a multiprocessor must have registers for
// Vectors of channels side by side in a block, 128 bytes of them. Few, so that it holds many
// columns, which share what they read with their neighbors.
constexpr int kMostLanes = 8;

// Features as planes of `channels` numbers per pixel: samples with channels last, otherwise every
// channel of every sample is a plane of its own. `planes` of them make up a sample.
struct StripGrid {
  int channels, planes, lanes, tiles, columns, spans, strips, offset, halo;
  int64_t count;  // planes in all

  // offset: rows by which the first strip begins early; halo: columns read beyond those written.
  StripGrid(const UpFirDn& f, int V, int offset_, int halo_)
      : channels(f.channels_last ? static_cast<int>(f.channels) : 1),
        planes(f.channels_last ? 1 : static_cast<int>(f.channels)),
        offset(offset_),
        halo(halo_),
        count(f.batch * planes) {
    const int64_t vectors = channels / V;
    lanes = even_lanes(vectors, V > 1 ? kMostLanes : kWarp);
    tiles = static_cast<int>(pieces(vectors, lanes));
    columns = even_lanes(f.columns.out, kThreads / lanes - halo);
    spans = static_cast<int>(pieces(f.columns.out, columns));
    strips = static_cast<int>(pieces(f.rows.out + offset, kStrip));
  }
  int threads() const { return round_up(lanes * (columns + halo), kWarp); }
  int64_t blocks() const { return count * strips * spans * tiles; }
};

// Where a thread works.
struct Strip {
  int channel, column, row;  // row: first of the strip; may be -1
  bool reads, writes;
  int64_t plane;

  __device__ Strip(const StripGrid& g, int V, int64_t width) {
    unsigned block = blockIdx.x;
    const int tile = block % g.tiles;
    block /= g.tiles;
    const int span = block % g.spans;
    block /= g.spans;
    row = static_cast<int>(block % g.strips) * kStrip - g.offset;
    plane = block / g.strips;
    channel = (tile * g.lanes + static_cast<int>(threadIdx.x) % g.lanes) * V;
    const int beside = static_cast<int>(threadIdx.x) / g.lanes;
    column = span * g.columns + beside;
    reads = channel < g.channels && beside < g.columns + g.halo;
    writes = channel < g.channels && beside < g.columns && column < width;
  }
};

// What bias_act does to a result, with the terms of a thread's plane and channels.
template <typename A, int V>
struct Epilogue {
  A scale[V], bias[V], post[V];
  const A* noise;  // of the pixels of the sample

  __device__ __forceinline__ Epilogue(const UpFirDn& f, const StripGrid& g, int64_t plane,
                                      int channel) {
    read_terms(f.scale, plane * g.channels + channel, A(1), scale);
    read_terms(f.bias, channel + plane % g.planes, A(0), bias);
    read_terms(f.post, plane * g.channels + channel, A(1), post);
    const int64_t pixels = f.rows.out * f.columns.out;
    noise = f.noise ? static_cast<const A*>(f.noise) + plane / g.planes * pixels : nullptr;
  }
  __device__ __forceinline__ void operator()(const Curve<A>& c, A (&value)[V],
                                             int64_t pixel) const {
    const A n = noise ? __ldg(noise + pixel) : A(0);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = value[v] * scale[v] + (n + bias[v]);
    curve_all(c, value);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] *= post[v];
  }
};
template <typename A, int V>
struct NoEpilogue {
  __device__ __forceinline__ NoEpilogue(const UpFirDn&, const StripGrid&, int64_t, int) {}
  __device__ __forceinline__ void operator()(const Curve<A>&, A (&)[V], int64_t) const {}
};

}  // namespace dg
