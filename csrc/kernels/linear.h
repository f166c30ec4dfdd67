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

template <int R>
inline void prefetch_ahead(const uint8_t* p, int bytes) {
  if constexpr (R <= 4)  // with more rows arithmetic hides the memory
    for (int i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + 2048 + i), _MM_HINT_T0);
}

template <int R>
inline void row_pointers(const QuantGroup& x, int slot, int offset, const int8_t** q) {
  for (int r = 0; r < R; ++r) q[r] = x.q[slot + r] + offset;
}

// acc[r] += sum over groups of scale * x.scale * dot + minimum * x.sum, groups in ascending order.
template <int R, bool MIN, bool WIDE>
inline void tile_q4(const Segment& s, const uint8_t* tile, const QuantGroup* x, int slot, F* acc) {
  const uint8_t* codes = tile + s.code_offset;
  const uint8_t* minima = tile + s.code_offset / 2;
  const int8_t* q[R];
  I dot[R];
  for (int g = 0; g < s.k / kGroup; ++g, codes += 256) {
    prefetch_ahead<R>(codes, 256);
    row_pointers<R>(x[g], slot, 0, q);
    dot_q4<R, MIN>(codes, q, x[g].n8 + slot, dot);
    const F scale = load_scales<WIDE>(tile, g);
    for (int r = 0; r < R; ++r) acc[r] = fma(to_float(dot[r]), mul(scale, set1(x[g].scale[slot + r])), acc[r]);
    if constexpr (MIN) {
      const F minimum = load_scales<WIDE>(minima, g);
      for (int r = 0; r < R; ++r) acc[r] = fma(minimum, set1(x[g].sum[slot + r]), acc[r]);
    }
  }
}

template <int R, bool MIN, bool WIDE>
inline void tile_q8(const Segment& s, const uint8_t* tile, const QuantGroup* x, int slot, F* acc) {
  const uint8_t* codes = tile + s.code_offset;
  const uint8_t* minima = tile + s.code_offset / 2;
  const int8_t* q[R];
  I dot[R];
  for (int g = 0; g < s.k / kGroup; ++g, codes += 512) {
    prefetch_ahead<R>(codes, 512);
    row_pointers<R>(x[g], slot, 0, q);
    dot_q8<R, MIN, 8>(codes, q, x[g].n8 + slot, dot);
    const F scale = load_scales<WIDE>(tile, g);
    for (int r = 0; r < R; ++r) acc[r] = fma(to_float(dot[r]), mul(scale, set1(x[g].scale[slot + r])), acc[r]);
    if constexpr (MIN) {
      const F minimum = load_scales<WIDE>(minima, g);
      for (int r = 0; r < R; ++r) acc[r] = fma(minimum, set1(x[g].sum[slot + r]), acc[r]);
    }
  }
}

// Groups of 16 (Q6_K): two scales for each group of 32 activations.
template <int R, bool WIDE>
inline void tile_q8_halves(const Segment& s, const uint8_t* tile, const QuantGroup* x, int slot, F* acc) {
  const uint8_t* codes = tile + s.code_offset;
  const int8_t* q[R];
  int32_t n8[R];
  I dot[R];
  for (int g = 0; g < s.k / kGroup; ++g, codes += 512) {
    prefetch_ahead<R>(codes, 512);
    for (int half = 0; half < 2; ++half) {
      row_pointers<R>(x[g], slot, 16 * half, q);
      for (int r = 0; r < R; ++r) {
        const int32_t first = x[g].n8_first[slot + r];
        n8[r] = half ? x[g].n8[slot + r] - first : first;
      }
      dot_q8<R, false, 4>(codes + 256 * half, q, n8, dot);
      const F scale = load_scales<WIDE>(tile, 2 * g + half);
      for (int r = 0; r < R; ++r) acc[r] = fma(to_float(dot[r]), mul(scale, set1(x[g].scale[slot + r])), acc[r]);
    }
  }
}

template <int R, bool HALF>
inline void tile_dense(const Segment& s, const uint8_t* tile, const float* x, int slot, F* acc) {
  x += slot;
  for (int k = 0; k < s.k; ++k, x += kRowBlock) {
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
  for (int k = 0; k < s.k; k += 2, line += 2 * kTile)
    for (int r = 0; r < R; ++r) {
      if constexpr (kBf16Activations) {
        acc[r] = dot_bf16(acc[r], line, rounded + k * kRowBlock + 2 * r, nullptr);
      } else {
        const float pair[2] = {exact[k * kRowBlock + r], exact[(k + 1) * kRowBlock + r]};
        acc[r] = dot_bf16(acc[r], line, nullptr, pair);
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
    case Kind::Q4:
      if (s.has_min) {
        if (s.scale_f32) tile_q4<R, true, true>(s, data, quant, slot, acc);
        else tile_q4<R, true, false>(s, data, quant, slot, acc);
      } else if (s.scale_f32) tile_q4<R, false, true>(s, data, quant, slot, acc);
      else tile_q4<R, false, false>(s, data, quant, slot, acc);
      return;
    case Kind::Q8:
      if (s.group == 16) {
        if (s.scale_f32) tile_q8_halves<R, true>(s, data, quant, slot, acc);
        else tile_q8_halves<R, false>(s, data, quant, slot, acc);
      } else if (s.has_min) {
        if (s.scale_f32) tile_q8<R, true, true>(s, data, quant, slot, acc);
        else tile_q8<R, true, false>(s, data, quant, slot, acc);
      } else if (s.scale_f32) tile_q8<R, false, true>(s, data, quant, slot, acc);
      else tile_q8<R, false, false>(s, data, quant, slot, acc);
      return;
    case Kind::BF16: tile_bf16<R>(s, data, x, block, slot, acc); return;
    case Kind::F16: tile_dense<R, true>(s, data, dense, slot, acc); return;
    case Kind::F32: tile_dense<R, false>(s, data, dense, slot, acc); return;
  }
}

// Any number of rows of one block, in pieces of at most PACELINE_MAX_ROWS.
inline void block_product(const Segment& s, int tile, const Rows& x, int block, int rows, F* acc) {
  for (int slot = 0; slot < rows; slot += PACELINE_MAX_ROWS) {
    switch (rows - slot) {
      case 1: tile_product<1>(s, tile, x, block, slot, acc + slot); break;
      case 2: tile_product<2>(s, tile, x, block, slot, acc + slot); break;
      case 3: tile_product<3>(s, tile, x, block, slot, acc + slot); break;
#if PACELINE_MAX_ROWS > 4
      case 4: tile_product<4>(s, tile, x, block, slot, acc + slot); break;
      case 5: tile_product<5>(s, tile, x, block, slot, acc + slot); break;
      case 6: tile_product<6>(s, tile, x, block, slot, acc + slot); break;
      case 7: tile_product<7>(s, tile, x, block, slot, acc + slot); break;
#endif
      default: tile_product<PACELINE_MAX_ROWS>(s, tile, x, block, slot, acc + slot);
    }
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
