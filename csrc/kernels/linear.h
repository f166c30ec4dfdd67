// Matrix products: one tile of 16 outputs times a block of up to 8 rows.
#pragma once

#include "math.h"
#include "rows.h"

namespace PACELINE_ISA {

template <bool WIDE>
inline F load_scales(const uint8_t* p, int g) {
  if constexpr (WIDE) return load(reinterpret_cast<const float*>(p) + g * kTile);
  else return load_f16(reinterpret_cast<const uint16_t*>(p) + g * kTile);
}

// Weights stream from memory once a step: ask for them well before they are needed. 8 KiB ahead measured best (of 0 to
// 8 KiB; 75 against 100 GB/s): at full speed that is little more than the latency of memory.
constexpr int kAhead = 8192;

template <int BYTES>
inline void prefetch_ahead(const uint8_t* p) {
  for (int i = 0; i < BYTES; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T0);
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

// acc[r] += sum over groups of scale * x.scale * dot + minimum * x.sum, groups in ascending order.
template <int R, bool MIN, bool WIDE, int CODES>
inline void tile_quantized(const Segment& s, const uint8_t* p, QuantView x, F* acc) {
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

template <int R, int BYTES>
inline void tile_integer(const Segment& s, const uint8_t* tile, QuantView x, F* acc) {
  if (s.has_min) {
    if (s.scale_f32) tile_quantized<R, true, true, BYTES>(s, tile, x, acc);
    else tile_quantized<R, true, false, BYTES>(s, tile, x, acc);
  } else if (s.scale_f32) {
    tile_quantized<R, false, true, BYTES>(s, tile, x, acc);
  } else {
    tile_quantized<R, false, false, BYTES>(s, tile, x, acc);
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

// R rows of block `block` from `slot` on, times one tile of 16 outputs.
template <int R>
void tile_product(const Segment& s, int tile, const Rows& x, int block, int slot, F* acc) {
  for (int r = 0; r < R; ++r) acc[r] = zero();
  const uint8_t* data = s.data + static_cast<size_t>(tile) * s.tile_bytes;
  const QuantGroup* quant = x.quant + static_cast<size_t>(block) * x.groups();
  const float* dense = x.dense + static_cast<size_t>(block) * x.padded * kRowBlock;
  switch (s.kind) {
    case Kind::Q4: tile_integer<R, 256>(s, data, QuantView(quant, slot), acc); return;
    case Kind::Q8:
      if (s.group == kGroup) tile_integer<R, 512>(s, data, QuantView(quant, slot), acc);
      else if (s.scale_f32) tile_halves<R, true>(s, data, QuantView(quant, slot), acc);
      else tile_halves<R, false>(s, data, QuantView(quant, slot), acc);
      return;
    case Kind::BF16: tile_bf16<R>(s, data, x, block, slot, acc); return;
    case Kind::F16: tile_dense<R, true>(s, data, dense, slot, acc); return;
    case Kind::F32: tile_dense<R, false>(s, data, dense, slot, acc); return;
  }
}

// Any number of rows of one block, in pieces of at most PACELINE_MAX_ROWS.
inline void block_product(const Segment& s, int tile, const Rows& x, int block, int rows, F* acc) {
  for (int slot = 0; slot < rows; slot += PACELINE_MAX_ROWS)
    with_count<PACELINE_MAX_ROWS>(std::min(rows - slot, PACELINE_MAX_ROWS),
                                  [&](auto r) { tile_product<r()>(s, tile, x, block, slot, acc + slot); });
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

// Tiles [first, last) of the stacked matrix for all rows of the step.
inline void run_linear(const LinearOp& op, const Step& step, int first, int last) {
  const int rows = op.to_logits ? step.logit_rows : step.rows;
  F acc[kRowBlock];
  for (int row = 0; row < rows; row += kRowBlock) {
    const int count = std::min(kRowBlock, rows - row);
    for (int t = first; t < last; ++t) {
      const Segment& s = op.weight->segment_of(t);
      const int local = t - s.first_tile, outs = std::min(kTile, s.outs - local * kTile);
      block_product(s, local, op.x, row / kRowBlock, count, acc);
      for (int r = 0; r < count; ++r) store_outputs(op, step, row + r, s.first_out + local * kTile, outs, acc[r]);
    }
  }
}

// Pairs of tiles [first, last) (32 outputs each) of activation(gate) * up for the rows of `blocks` row blocks.
inline void gated_rows(const Matrix& gate, const Matrix& up, Act act, const Rows& x, const Rows& out, int want,
                       int block, int rows, int first, int last) {
  const Segment &g = gate.segments[0], &u = up.segments[0];
  F gates[kRowBlock], ups[kRowBlock];
  alignas(64) float values[kRowBlock][kGroup];
  for (int pair = first; pair < last; ++pair) {
    for (int half = 0; half < 2; ++half) {
      const int tile = 2 * pair + half;
      if (tile >= g.tiles) {
        for (int r = 0; r < rows; ++r) store(values[r] + kTile, zero());
        break;
      }
      block_product(g, tile, x, block, rows, gates);
      block_product(u, tile, x, block, rows, ups);
      for (int r = 0; r < rows; ++r) store(values[r] + kTile * half, mul(activate(act, gates[r]), ups[r]));
    }
    const int count = std::min(kGroup, g.outs - pair * kGroup);
    for (int r = 0; r < rows; ++r) write_forms(out, want, block * kRowBlock + r, pair * kGroup, count, values[r]);
  }
}

inline void run_gated(const GatedOp& op, const Step& step, int first, int last) {
  for (int row = 0; row < step.rows; row += kRowBlock)
    gated_rows(*op.gate, *op.up, static_cast<Act>(op.activation), op.x, op.out, op.want, row / kRowBlock,
               std::min(kRowBlock, step.rows - row), first, last);
}

}  // namespace PACELINE_ISA
