// upfirdn2d on the CPU: columns of taps first into a row buffer, then rows of taps out of it.
#include <algorithm>
#include <vector>

#include "cpu.h"
#include "vectors.h"

namespace dg {
namespace {

// Outputs of a line that have the same taps: `up` apart, and their inputs `down`.
struct Piece {
  int64_t first, outputs, at;
  int tap, count;
};

// A line as pieces: told once, for divisions cost more than a few channels.
std::vector<Piece> pieces_of(const Axis& axis) {
  std::vector<Piece> pieces;
  for (int64_t phase = 0; phase < axis.up && phase < axis.out; ++phase)
    for (int64_t o = phase; o < axis.out; o += axis.up) {
      Piece next{o, 1, 0, 0, 0};
      axis_taps(axis, o, &next.tap, &next.at, &next.count);
      if (o > phase) {
        Piece& piece = pieces.back();
        const bool follows = next.at == piece.at + piece.outputs * axis.down;
        if (follows && next.tap == piece.tap && next.count == piece.count) {
          ++piece.outputs;
          continue;
        }
      }
      pieces.push_back(next);
    }
  return pieces;
}

// body(sum), where sum(get, from) is that of tap * number over `count` numbers that lie `apart`, or
// over vectors that begin there. What all filters in use have is a case of its own.
template <typename A, typename Body>
inline void with_taps(const A* taps, int step, int count, int64_t apart, Body body) {
  if (count == 4) {
    const A a = taps[0], b = taps[step], c = taps[2 * step], d = taps[3 * step];
    body([=](auto get, auto* from) {
      return get(from) * a + get(from + apart) * b + get(from + 2 * apart) * c +
             get(from + 3 * apart) * d;
    });
  } else if (count == 2) {
    const A a = taps[0], b = taps[step];
    body([=](auto get, auto* from) { return get(from) * a + get(from + apart) * b; });
  } else {
    body([=](auto get, auto* from) {
      auto value = decltype(get(from)){};
      for (int j = 0; j < count; ++j) value += get(from + j * apart) * taps[j * step];
      return value;
    });
  }
}

// dst[i] = sum over the taps of row `o` of weight * source row; `width` numbers per row.
template <typename T>
void combine_rows(const UpFirDn& f, const T* x, int64_t o, int64_t width, Acc<T>* dst) {
  using A = Acc<T>;
  const A* taps = static_cast<const A*>(f.taps);
  int k, count;
  int64_t at;
  axis_taps(f.rows, o, &k, &at, &count);
  const T* from = x + at * width;
  with_taps(taps + k, f.rows.up, count, width, [&](auto sum) {
    each_channel<T>(width, [&](auto get, auto put, int64_t i) { put(dst + i, sum(get, from + i)); });
  });
}

// One unit is one output row of one sample.
template <typename T>
void last(const UpFirDn& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t C = f.channels, width = f.columns.in * C;
  const A* taps = static_cast<const A*>(f.taps);
  const Curve<A> c = curve_of<A>(f);
  const Filled<A> scale(f.scale, C, A(1)), bias(f.bias, C, A(0)), post(f.post, C, A(1));
  const std::vector<Piece> pieces = pieces_of(f.columns);
  const int64_t across = f.columns.up * C, along = f.columns.down * C;
  // Outputs of which some channels are done before the next ones: such that all stay near.
  const int64_t run = std::max<int64_t>(4, 2048 / std::max<int64_t>(1, C));
  std::vector<A> buffer(width);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / f.rows.out, row = unit % f.rows.out;
    combine_rows<T>(f, static_cast<const T*>(f.x) + n * f.rows.in * width, row, width,
                    buffer.data());
    T* line = static_cast<T*>(f.out) + unit * f.columns.out * C;
    const A* noise = f.noise ? static_cast<const A*>(f.noise) + unit * f.columns.out : nullptr;
    for (const Piece& piece : pieces)
      with_taps(taps + piece.tap, f.columns.up, piece.count, C, [&](auto sum) {
        for (int64_t start = 0; start < piece.outputs; start += run)
          each_channel<T>(C, [&](auto get, auto put, int64_t i) {
            const auto sc = get(scale.row(n) + i), bi = get(bias.row(0) + i);
            const auto po = get(post.row(n) + i);
            const A* from = buffer.data() + piece.at * C + start * along + i;
            T* to = line + piece.first * C + start * across + i;
            const int64_t stop = std::min(start + run, piece.outputs);
            for (int64_t k = start; k < stop; ++k, from += along, to += across) {
              auto v = sum(get, from);
              if (f.epilogue) {
                const A m = noise ? noise[piece.first + k * f.columns.up] : A(0);
                v = curve(c, v * sc + (m + bi)) * po;
              }
              put(to, v);
            }
          });
      });
  }
}

// One unit is one output row of one plane; neighbors along the row are neighbors in memory.
template <typename T>
void first(const UpFirDn& f, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const A* taps = static_cast<const A*>(f.taps);
  const Curve<A> c = curve_of<A>(f);
  const std::vector<Piece> pieces = pieces_of(f.columns);
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
    for (const Piece& piece : pieces)
      for (int64_t k = 0; k < piece.outputs; ++k) {
        const A* from = buffer.data() + piece.at + k * f.columns.down;
        const int64_t o = piece.first + k * f.columns.up;
        A value = A(0);
        for (int j = 0; j < piece.count; ++j) value += from[j] * taps[piece.tap + j * f.columns.up];
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
