// Filters of 4 taps that keep the size: down the rows in registers, then across in shared memory.
#pragma once

#include "upfirdn2d.cuh"

namespace dg {

// A thread reads one column, once. Its sums over rows then wait, for a turn of two rows, where the
// threads of the columns beside it find them.
template <typename T, int V, template <typename, int> class End>
__global__ void __launch_bounds__(kThreads, kResident)
    blur(UpFirDn f, StripGrid g, Curve<Acc<T>> c) {
  using A = Acc<T>;
  constexpr int kAhead = 3;  // input rows that are on their way while one is used
  constexpr int kTurn = 2;
  static_assert(kStrip % kTurn == 0, "a strip is made of whole turns");
  constexpr int kPart = V < 4 ? V : 4;
  // Two turns: one is read while the other is written, which saves a barrier.
  __shared__ Vec<A, kPart> sums[2][kTurn][V / kPart][kThreads];
  const Strip at(g, V, f.columns.out);
  const End<A, V> end(f, g, at.plane, at.writes ? at.channel : 0);
  A taps[kTaps];
  read_terms(f.taps, 0, A(0), taps);
  const int64_t width = f.columns.in * g.channels;
  const int column = at.column - f.columns.pad, rows = static_cast<int>(f.rows.in);
  const bool inside = at.reads && column >= 0 && column < f.columns.in;
  int row = at.row - f.rows.pad;  // the next one to read
  const T* x = static_cast<const T*>(f.x) + (at.plane * rows + row) * width +
               static_cast<int64_t>(column) * g.channels + at.channel;
  int64_t pixel = at.row * f.columns.out + at.column;
  T* out = static_cast<T*>(f.out) + at.channel +
           (at.plane * f.rows.out * f.columns.out + pixel) * g.channels;

  Vec<T, V> next[kAhead];
  const auto fetch = [&](Vec<T, V>& to) {
    to = {};
    if (inside && row >= 0 && row < rows) to = read<V>(x);
    ++row;
    x += width;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) fetch(next[i]);
  A partial[kTaps][V];  // output row j grows in partial[j % kTaps]
#pragma unroll
  for (int i = 0; i < kStrip + kTaps - 1; ++i) {
    const Vec<T, V> here = next[i % kAhead];
    if (i + kAhead < kStrip + kTaps - 1) fetch(next[i % kAhead]);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A value = load(here.at(v));
#pragma unroll
      for (int m = 0; m < kTaps; ++m) {
        if (i < m || i - m >= kStrip) continue;
        A& grown = partial[(i - m) % kTaps][v];
        grown = m ? grown + value * taps[m] : value * taps[0];
      }
    }
    const int j = i - (kTaps - 1);  // the output row that is complete now
    if (j < 0) continue;
    auto& turn = sums[j / kTurn % 2];
#pragma unroll
    for (int p = 0; p < V / kPart; ++p) {
      Vec<A, kPart> part;
      memcpy(&part, &partial[j % kTaps][p * kPart], sizeof(part));
      turn[j % kTurn][p][threadIdx.x] = part;
    }
    if (j % kTurn != kTurn - 1) continue;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kTurn; ++s) {
      const bool below = at.row + j - kTurn + 1 + s >= f.rows.out;
      if (at.writes && !below) {
        A value[V];
#pragma unroll
        for (int m = 0; m < kTaps; ++m) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const A term = turn[s][v / kPart][threadIdx.x + m * g.lanes].at(v % kPart) * taps[m];
            value[v] = m ? value[v] + term : term;
          }
        }
        end(c, value, pixel);
        write(out, rounded<T>(value));
      }
      pixel += f.columns.out;
      out += f.columns.out * g.channels;
    }
    if (at.row + j + 1 >= f.rows.out) break;  // the same for all threads
  }
}

}  // namespace dg
