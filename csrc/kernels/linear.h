// Matrix products: one tile of 16 outputs times a block of up to 8 rows.
#pragma once

#include "adapters.h"
#include "math.h"
#include "rows.h"

namespace PACELINE_ISA {

template <bool WIDE>
inline F load_scales(const uint8_t* p, int g) {
  if constexpr (WIDE) return load(reinterpret_cast<const float*>(p) + g * kTile);
  else return load_f16(reinterpret_cast<const uint16_t*>(p) + g * kTile);
}

// The rows of one block from `slot` on, one group of 32 activations after the other.
struct QuantView {
  const int8_t* q;
  const float* numbers;  // of 8 rows each: scale, sum, n8, n8_first

  QuantView(const QuantGroup* x, int slot) : q(x->q[slot]), numbers(x->scale + slot) {}
  void next() {
    q += sizeof(QuantGroup);
    numbers += sizeof(QuantGroup) / sizeof(float);
  }
  F scale(int r) const { return set1(numbers[r]); }
  F sum(int r) const { return set1(numbers[kRowBlock + r]); }
  const int32_t* n8() const { return reinterpret_cast<const int32_t*>(numbers + 2 * kRowBlock); }
  const int32_t* n8_first() const { return n8() + kRowBlock; }
};

// Products on a matrix unit, in variants that have one (matrix_unit.h): for blocks of at least kUnitRows rows, while a
// MatrixUnit exists.
#if !defined(PACELINE_MATRIX_UNIT)
constexpr int kUnitRows = kRowBlock + 1;
struct MatrixUnit {
  explicit MatrixUnit(int /*rows*/) {}
};
#endif
template <int R, bool MIN, bool WIDE, int CODES>
void unit_quantized(const Segment& s, const uint8_t* p, QuantView x, F* acc);
template <int R, bool WIDE>
void unit_halves(const Segment& s, const uint8_t* p, QuantView x, F* acc);

// acc[r] += sum over groups of scale * x.scale * dot + minimum * x.sum, groups in ascending order.
template <int R, bool MIN, bool WIDE, int CODES>
inline void tile_quantized(const Segment& s, const uint8_t* p, QuantView x, F* acc) {
  if constexpr (R >= kUnitRows) return unit_quantized<R, MIN, WIDE, CODES>(s, p, x, acc);
  constexpr int kScales = 2 * kTile * (WIDE ? 4 : 2), kMinima = MIN ? kScales : 0;
  I dot[R];
  for (int span = s.k / kSpan; span > 0; --span, p += kScales + kMinima + 2 * CODES) {
    prefetch_ahead<kScales + kMinima + 2 * CODES>(p);
    for (int g = 0; g < 2; ++g, x.next()) {
      const uint8_t* codes = p + kScales + kMinima + g * CODES;
      if constexpr (CODES == 256) dot_q4<R, MIN>(codes, x.q, x.n8(), dot);
      else dot_q8<R, MIN, 8>(codes, x.q, x.n8(), dot);
      const F scale = load_scales<WIDE>(p, g);
      for (int r = 0; r < R; ++r) acc[r] = fma(to_float(dot[r]), mul(scale, x.scale(r)), acc[r]);
      if constexpr (MIN) {
        const F minimum = load_scales<WIDE>(p + kScales, g);
        for (int r = 0; r < R; ++r) acc[r] = fma(minimum, x.sum(r), acc[r]);
      }
    }
  }
}

// 8-bit groups of 16 (Q6_K): two scales for each group of 32 activations.
template <int R, bool WIDE>
inline void tile_halves(const Segment& s, const uint8_t* p, QuantView x, F* acc) {
  if constexpr (R >= kUnitRows) return unit_halves<R, WIDE>(s, p, x, acc);
  constexpr int kScales = 4 * kTile * (WIDE ? 4 : 2);
  int32_t n8[R];
  I dot[R];
  for (int span = s.k / kSpan; span > 0; --span, p += kScales + 1024) {
    prefetch_ahead<kScales + 1024>(p);
    for (int half = 0; half < 4; ++half) {
      for (int r = 0; r < R; ++r) n8[r] = half % 2 ? x.n8()[r] - x.n8_first()[r] : x.n8_first()[r];
      dot_q8<R, false, 4>(p + kScales + 256 * half, x.q + 16 * (half % 2), n8, dot);
      const F scale = load_scales<WIDE>(p, half);
      for (int r = 0; r < R; ++r) acc[r] = fma(to_float(dot[r]), mul(scale, x.scale(r)), acc[r]);
      if (half % 2) x.next();
    }
  }
}

template <int R, bool HALF>
inline void tile_dense(const Segment& s, const uint8_t* tile, const float* x, int slot, F* acc) {
  x += slot;
  for (int k = 0; k < s.k; ++k, x += kRowBlock) {
    prefetch_ahead<1>(tile + k * kTile * (HALF ? 2 : 4));
    F w;
    if constexpr (HALF) w = load_f16(reinterpret_cast<const uint16_t*>(tile) + k * kTile);
    else w = load(reinterpret_cast<const float*>(tile) + k * kTile);
    for (int r = 0; r < R; ++r) acc[r] = fma(w, set1(x[r]), acc[r]);
  }
}

template <int R>
inline void tile_bf16(const Segment& s, const uint8_t* tile, const Rows& x, int block, int slot, F* acc) {
  const uint16_t* line = reinterpret_cast<const uint16_t*>(tile);
  const size_t at = static_cast<size_t>(block) * x.padded * kRowBlock;
  const uint16_t* rounded = kBf16Activations ? x.bf16 + at + slot * 2 : nullptr;
  const float* exact = kBf16Activations ? nullptr : x.dense + at + slot;
  for (int k = 0; k < s.k; k += 2, line += 2 * kTile) {
    prefetch_ahead<1>(reinterpret_cast<const uint8_t*>(line));
    for (int r = 0; r < R; ++r) {
      if constexpr (kBf16Activations) {
        acc[r] = dot_bf16(acc[r], line, rounded + k * kRowBlock + 2 * r, nullptr);
      } else {
        const float pair[2] = {exact[k * kRowBlock + r], exact[(k + 1) * kRowBlock + r]};
        acc[r] = dot_bf16(acc[r], line, nullptr, pair);
      }
    }
  }
}

// R rows of a block from `slot` on, times `count` tiles from `tile` on; acc[t * kRowBlock + r] is row r of tile t.
// The loop over tiles is innermost but one: a short tile should not pay for choosing its kernel.
template <int R>
void tile_products(const Segment& s, int tile, int count, const Rows& x, int block, int slot, F* acc) {
  const uint8_t* data = s.data + static_cast<size_t>(tile) * s.tile_bytes;
  const QuantGroup* quant = x.quant + static_cast<size_t>(block) * x.groups();
  const float* dense = x.dense + static_cast<size_t>(block) * x.padded * kRowBlock;
  const auto each = [&](auto product) {
    for (int t = 0; t < count; ++t, data += s.tile_bytes, acc += kRowBlock) {
      F sums[R];
      for (int r = 0; r < R; ++r) sums[r] = zero();
      product(sums);
      for (int r = 0; r < R; ++r) acc[r] = sums[r];
    }
  };
  switch (s.kind) {
    case Kind::Q4:
      with_flags(s.has_min, s.scale_f32, [&](auto min, auto wide) {
        each([&](F* sums) { tile_quantized<R, min(), wide(), 256>(s, data, QuantView(quant, slot), sums); });
      });
      return;
    case Kind::Q8:
      if (s.group != kGroup) {
        with_flags(false, s.scale_f32, [&](auto, auto wide) {
          each([&](F* sums) { tile_halves<R, wide()>(s, data, QuantView(quant, slot), sums); });
        });
        return;
      }
      with_flags(s.has_min, s.scale_f32, [&](auto min, auto wide) {
        each([&](F* sums) { tile_quantized<R, min(), wide(), 512>(s, data, QuantView(quant, slot), sums); });
      });
      return;
    case Kind::BF16: each([&](F* sums) { tile_bf16<R>(s, data, x, block, slot, sums); }); return;
    case Kind::F16: each([&](F* sums) { tile_dense<R, true>(s, data, dense, slot, sums); }); return;
    case Kind::F32: each([&](F* sums) { tile_dense<R, false>(s, data, dense, slot, sums); }); return;
  }
}

// Any number of rows of one block, in pieces of at most PACELINE_MAX_ROWS.
inline void block_products(const Segment& s, int tile, int count, const Rows& x, int block, int rows, F* acc) {
  for (int slot = 0; slot < rows; slot += PACELINE_MAX_ROWS)
    with_count<PACELINE_MAX_ROWS>(std::min(rows - slot, PACELINE_MAX_ROWS),
                                  [&](auto r) { tile_products<r()>(s, tile, count, x, block, slot, acc + slot); });
}

// The same for a step with adapters, whose weights are asked for meanwhile: behind the products memory has time.
__attribute__((noinline)) inline void products_with_adapters(const Segment& s, int tile, int count, const Rows& x,
                                                             int block, int rows, const Step& step, F* acc) {
  const AdapterGroups& groups = step.adapters_of(x);
  const int burst = block == 0 ? tiles_a_burst(s.site, groups) : count;
  for (int t = 0; t < count; t += burst) {
    const int tiles = std::min(burst, count - t);
    if (block == 0) prefetch_expand(s.site, groups, tile + t, tiles);
    block_products(s, tile + t, tiles, x, block, rows, acc + t * kRowBlock);
  }
}

inline void store_outputs(const LinearOp& op, const Step& step, int row, int column, int count, F v) {
  const F scaled = op.scale == 1.0f ? v : mul(v, set1(op.scale));
  if (op.to_logits) {
    const F capped = op.softcap > 0.0f ? mul(set1(op.softcap), tanh(div(scaled, set1(op.softcap)))) : scaled;
    store_n(step.logits + static_cast<size_t>(row) * op.weight->outs + column, capped, count);
    return;
  }
  float* to = plain_row(op.out, row) + column;
  F out = scaled;
  if (op.bias) out = add(out, load_n(op.bias + column, count));
  if (op.residual) out = add(load_n(to, count), out);
  if (count == kTile) store(to, out);
  else store_n(to, out, count);
}

// Calls run(segment, tile in it, count) for tiles [first, last) of a stacked matrix.
template <class Run>
inline void for_tiles(const Matrix& m, int first, int last, Run run) {
  while (first < last) {
    const Segment& s = m.segment_of(first);
    const int count = std::min({kTilesAtOnce, last - first, s.first_tile + s.tiles - first});
    run(s, first - s.first_tile, count);
    first += count;
  }
}

// The largest logit of a block of rows as their tiles pass by, and whether one of them is not a finite number.
struct Tops {
  F top[kRowBlock], odd[kRowBlock];

  Tops() {
    for (int r = 0; r < kRowBlock; ++r) top[r] = set1(-INFINITY), odd[r] = zero();
  }
  void take(int r, const float* logits, int count) {
    alignas(64) float padded[kTile];
    if (count < kTile) {
      std::fill(std::copy(logits, logits + count, padded), padded + kTile, logits[0]);
      logits = padded;
    }
    const F v = load(logits);
    top[r] = max(top[r], v);
    odd[r] = fma(v, zero(), odd[r]);
  }
  float result(int r) const { return hsum(odd[r]) == 0.0f ? hmax(top[r]) : NAN; }
};

// Tiles [first, last) of the stacked matrix for all rows of the step.
inline void run_linear(const LinearOp& op, const Step& step, int first, int last) {
  const int rows = step.rows_of(op.x);
  [[maybe_unused]] const MatrixUnit unit(rows);
  const bool adapters = !op.sites.empty() && !step.adapters_of(op.x).all.empty();
  F acc[kTilesAtOnce * kRowBlock];
  for (int row = 0; row < rows; row += kRowBlock) {
    const int in_block = std::min(kRowBlock, rows - row);
    Tops tops;
    for_tiles(*op.weight, first, last, [&](const Segment& s, int tile, int count) {
      if (adapters) {
        products_with_adapters(s, tile, count, op.x, row / kRowBlock, in_block, step, acc);
        expand(op.sites, &s - op.weight->segments.data(), step, op.x, tile, count, row / kRowBlock, acc);
      } else {
        block_products(s, tile, count, op.x, row / kRowBlock, in_block, acc);
      }
      for (int t = 0; t < count; ++t) {
        const int column = (tile + t) * kTile, outs = std::min(kTile, s.outs - column);
        for (int r = 0; r < in_block; ++r)
          store_outputs(op, step, row + r, s.first_out + column, outs, acc[t * kRowBlock + r]);
        if (op.to_logits)
          for (int r = 0; r < in_block; ++r)
            tops.take(r, step.logits + static_cast<size_t>(row + r) * op.weight->outs + s.first_out + column, outs);
      }
    });
    if (op.to_logits)
      for (int r = 0; r < in_block; ++r)
        step.chunk_tops[(row + r) * step.logit_chunks + first / step.logit_chunk_tiles] = tops.result(r);
  }
}

// Pairs of tiles [first, last) (32 outputs each) of activation(gate) * up for the rows of one row block.
// products(gate or up, 0 or 1, tile, count, sums) computes what the activation reads.
template <class Products>
inline void gated_rows(const Matrix& gate, const Matrix& up, Act act, const Rows& out, int want, int block, int rows,
                       int first, int last, Products products) {
  const Segment &g = gate.segments[0], &u = up.segments[0];
  F gates[kTilesAtOnce * kRowBlock], ups[kTilesAtOnce * kRowBlock];
  alignas(64) float values[kTilesAtOnce * kTile];
  for (int tile = 2 * first; tile < std::min(2 * last, g.tiles); tile += kTilesAtOnce) {
    const int count = std::min({kTilesAtOnce, 2 * last - tile, g.tiles - tile});
    products(g, 0, tile, count, gates);
    products(u, 1, tile, count, ups);
    for (int r = 0; r < rows; ++r) {
      for (int t = 0; t < count; ++t)
        store(values + t * kTile, mul(activate(act, gates[t * kRowBlock + r]), ups[t * kRowBlock + r]));
      if (count % 2) store(values + count * kTile, zero());
      const int outs = std::min(count * kTile, g.outs - tile * kTile);
      write_forms(out, want, block * kRowBlock + r, tile * kTile, outs, values);
    }
  }
}

inline void run_gated(const GatedOp& op, const Step& step, int first, int last) {
  const int all = step.rows_of(op.x);
  [[maybe_unused]] const MatrixUnit unit(all);
  const bool adapters = !op.sites.empty() && !step.adapters_of(op.x).all.empty();
  for (int row = 0; row < all; row += kRowBlock) {
    const int block = row / kRowBlock, rows = std::min(kRowBlock, all - row);
    gated_rows(*op.gate, *op.up, static_cast<Act>(op.activation), op.out, op.want, block, rows, first, last,
               [&](const Segment& s, size_t which, int tile, int count, F* sums) {
                 if (!adapters) return block_products(s, tile, count, op.x, block, rows, sums);
                 products_with_adapters(s, tile, count, op.x, block, rows, step, sums);
                 expand(op.sites, which, step, op.x, tile, count, block, sums);
               });
  }
}

}  // namespace PACELINE_ISA
