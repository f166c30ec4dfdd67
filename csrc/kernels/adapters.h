// Updates of adapters: h = scale * A x for the rows of each adapter, then B h on top of the base product's sums. Both
// sums run in an order that depends on the row alone.
#pragma once

#include "../adapters.h"
#include "rows.h"

namespace PACELINE_ISA {

// Sums that A x is made of, input k going to sum k % 4: one chain would wait for its own additions. Few rows at a time
// keep all sums in registers.
constexpr int kShrinkChains = 4, kShrinkRows = PACELINE_MAX_ROWS / 2;

template <bool WIDE>
inline F load_number(const uint8_t* p, size_t i) {
  if constexpr (WIDE) return load(reinterpret_cast<const float*>(p) + i);
  else return load_bf16(reinterpret_cast<const uint16_t*>(p) + i);
}

// A row as the base product reads it.
inline void unpack_activations(const Rows& x, int row, float* to) {
  const int block = row / kRowBlock, slot = row % kRowBlock;
  if (x.dense) {
    const float* from = x.dense + static_cast<size_t>(block) * x.padded * kRowBlock + slot;
    for (int k = 0; k < x.padded; ++k) to[k] = from[k * kRowBlock];
  } else if (x.quant) {
    const QuantGroup* group = x.quant + static_cast<size_t>(block) * x.groups();
    for (int k = 0; k < x.padded; k += kGroup, ++group) {
      const F scale = set1(group->scale[slot]);
      store(to + k, mul(load_i8(group->q[slot]), scale));
      store(to + k + 16, mul(load_i8(group->q[slot] + 16), scale));
    }
  } else {
    const uint16_t* from = x.bf16 + static_cast<size_t>(block) * x.padded * kRowBlock + slot * 2;
    for (int k = 0; k < x.padded; ++k) {
      const uint32_t bits = static_cast<uint32_t>(from[k / 2 * (2 * kRowBlock) + k % 2]) << 16;
      __builtin_memcpy(to + k, &bits, 4);
    }
  }
}

// One tile of the rank for R rows, `stride` floats apart.
template <int R, bool WIDE>
inline void shrink_tile(const LoraPart& part, const uint8_t* a, const float* x, int stride, float* const* out) {
  F sums[R][kShrinkChains];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kShrinkChains; ++c) sums[r][c] = zero();
  int k = 0;
  for (; k + kShrinkChains <= part.inputs; k += kShrinkChains) {
    const uint8_t* line = a + static_cast<size_t>(k) * kTile * (WIDE ? 4 : 2);
    prefetch_ahead<kShrinkChains * kTile * (WIDE ? 4 : 2)>(line);
    for (int c = 0; c < kShrinkChains; ++c) {
      const F w = load_number<WIDE>(line, c * kTile);
      for (int r = 0; r < R; ++r) sums[r][c] = fma(w, set1(x[r * stride + k + c]), sums[r][c]);
    }
  }
  for (; k < part.inputs; ++k) {
    const F w = load_number<WIDE>(a, static_cast<size_t>(k) * kTile);
    for (int r = 0; r < R; ++r) sums[r][k % kShrinkChains] = fma(w, set1(x[r * stride + k]), sums[r][k % kShrinkChains]);
  }
  for (int r = 0; r < R; ++r) {
    const F total = add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3]));
    store(out[r], mul(total, set1(part.scale)));
  }
}

// The weight of an op that has a tile of the op's ranks, laid side by side; `tile` becomes the tile of its own rank.
inline const LoraPart* part_of_tile(const Adapter& adapter, const std::vector<int>& sites, int& tile) {
  for (const int site : sites) {
    const LoraPart& part = adapter.part(site);
    if (tile < part.tiles()) return &part;
    tile -= part.tiles();
  }
  return nullptr;
}

// Items [first, last): tiles of the rank for each block of rows that share an adapter. `scratch` holds a block of rows.
inline void run_shrink(const std::vector<int>& sites, const Rows& x, const Step& step, int first, int last,
                       float* scratch) {
  const AdapterRows* unpacked = nullptr;
  for (int item = first; item < last; ++item) {
    const AdapterRows& block = step.adapter_rows[item / step.shrink_tiles];
    int tile = item % step.shrink_tiles;
    const int column = tile * kTile;
    const LoraPart* part = part_of_tile(*block.adapter, sites, tile);
    if (!part) continue;
    if (unpacked != &block)
      for (int r = 0; r < block.count; ++r) unpack_activations(x, block.rows[r], scratch + r * x.padded);
    unpacked = &block;
    const uint8_t* a = part->a + static_cast<size_t>(tile) * part->inputs * kTile * part->item();
    for (int r = 0; r < block.count; r += kShrinkRows)
      with_count<kShrinkRows>(std::min(kShrinkRows, block.count - r), [&](auto count) {
        float* out[kShrinkRows];
        for (int i = 0; i < count(); ++i) out[i] = step.shrunk_row(block.rows[r + i]) + column;
        const float* rows = scratch + r * x.padded;
        if (part->wide) shrink_tile<count(), true>(*part, a, rows, x.padded, out);
        else shrink_tile<count(), false>(*part, a, rows, x.padded, out);
      });
  }
}

template <int R, bool WIDE>
inline void expand_tile(const LoraPart& part, int tile, const float* h, int stride, F* acc) {
  const uint8_t* b = part.b + static_cast<size_t>(tile) * part.rank * kTile * (WIDE ? 4 : 2);
  F sums[R];
  for (int r = 0; r < R; ++r) sums[r] = zero();
  for (int j = 0; j < part.rank; ++j) {
    const F w = load_number<WIDE>(b, static_cast<size_t>(j) * kTile);
    for (int r = 0; r < R; ++r) sums[r] = fma(w, set1(h[r * stride + j]), sums[r]);
  }
  for (int r = 0; r < R; ++r) acc[r] = add(acc[r], sums[r]);
}

// acc[t * kRowBlock + r] += the update of row `row + r` in tile `tile + t` of the weight sites[index]. Rows of one
// adapter that stand together share the reading of B.
inline void expand(const std::vector<int>& sites, size_t index, const Step& step, int tile, int count, int row,
                   int rows, F* acc) {
  if (step.row_adapters.empty() || sites.empty()) return;
  for (int r = 0, same = 1; r < rows; r += same) {
    const Adapter* adapter = step.row_adapters[row + r];
    for (same = 1; same < kShrinkRows && r + same < rows && step.row_adapters[row + r + same] == adapter;) ++same;
    if (!adapter) continue;
    const LoraPart& part = adapter->part(sites[index]);
    if (part.rank == 0) continue;
    const float* h = step.shrunk_row(row + r);
    for (size_t i = 0; i < index; ++i) h += adapter->part(sites[i]).tiles() * kTile;
    with_count<kShrinkRows>(same, [&](auto together) {
      for (int t = 0; t < count; ++t) {
        F* to = acc + t * kRowBlock + r;
        if (part.wide) expand_tile<together(), true>(part, tile + t, h, step.shrunk_width, to);
        else expand_tile<together(), false>(part, tile + t, h, step.shrunk_width, to);
      }
    });
  }
}

}  // namespace PACELINE_ISA
