// Updates of adapters: h = scale * A x for the rows of each adapter ("shrink"), then B h on top of the base product's
// sums ("expand"). Both sums run in an order that depends on the row alone.
#pragma once

#include "../adapters.h"
#include "rows.h"

namespace PACELINE_ISA {

constexpr int kTilesAtOnce = 8;  // of a base product

// A x is made of several sums, inputs 2k and 2k + 1 going to sum k % 4: one chain would wait for its own additions. Few
// rows at a time keep all sums in registers.
constexpr int kShrinkChains = 4, kAdapterRows = PACELINE_MAX_ROWS / 2;

// acc + two neighbouring columns of 16 rows of A or B times two activations. Beside bfloat16 numbers activations are
// rounded to bfloat16 where the variant does so for weights, too.
template <bool WIDE>
inline F add_pair(F acc, const uint8_t* line, const float* x, const uint16_t* rounded) {
  if constexpr (WIDE) {
    acc = fma(load(reinterpret_cast<const float*>(line)), set1(x[0]), acc);
    return fma(load(reinterpret_cast<const float*>(line) + kTile), set1(x[1]), acc);
  } else {
    return dot_bf16(acc, reinterpret_cast<const uint16_t*>(line), rounded, x);
  }
}

template <bool WIDE>
constexpr int kPairBytes = 2 * kTile * (WIDE ? 4 : 2);

// Rows as the base product reads them: floats, and behind those of a row the same rounded where the variant does that.
struct Unpacked {
  float* data;
  int padded;

  float* exact(int row) const { return data + row * (padded + padded / 2); }
  uint16_t* rounded(int row) const { return reinterpret_cast<uint16_t*>(exact(row) + padded); }
  Unpacked from(int row) const { return {exact(row), padded}; }
};

inline void unpack_activations(const Rows& x, int row, float* to, uint16_t* rounded) {
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
  if constexpr (kBf16Activations)
    for (int k = 0; k < x.padded; k += 16) round_bf16(to + k, rounded + k);
}

// The results of one row for one part: floats, or in the first half of their place the same rounded.
template <bool WIDE>
inline void store_shrunk(float* part, int tile, F v) {
  if constexpr (WIDE || !kBf16Activations) {
    store(part + tile * kTile, v);
  } else {
    alignas(64) float exact[kTile];
    store(exact, v);
    round_bf16(exact, reinterpret_cast<uint16_t*>(part) + tile * kTile);
  }
}

// One tile of the rank for R rows.
template <int R, bool WIDE>
inline void shrink_tile(const LoraPart& part, int tile, Unpacked x, float* const* out) {
  const uint8_t* a = part.a_tile(tile);
  F sums[R][kShrinkChains];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kShrinkChains; ++c) sums[r][c] = zero();
  for (int k = 0; k < part.inputs;) {
    prefetch_ahead<kShrinkChains * kPairBytes<WIDE>>(a);
    for (int c = 0; c < kShrinkChains; ++c, k += 2, a += kPairBytes<WIDE>)
      for (int r = 0; r < R; ++r) sums[r][c] = add_pair<WIDE>(sums[r][c], a, x.exact(r) + k, x.rounded(r) + k);
  }
  for (int r = 0; r < R; ++r) {
    const F total = add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3]));
    store_shrunk<WIDE>(out[r], tile, mul(total, set1(part.scale)));
  }
}

inline void prefetch(const uint8_t* p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
}

// Asks for the first weights of an item: shrink_tile() asks for those that lie further on.
inline void prefetch_shrink(const ShrinkItem& item) {
  prefetch(item.part->a_tile(item.tile), std::min<size_t>(kAhead, item.part->a_tile_bytes()));
}

// Items [first, last) of step.shrinks: tiles of the rank for each group of rows that share an adapter. `scratch` holds
// 12 padded rows of floats.
inline void run_shrink(const Rows& x, const Step& step, int first, int last, float* scratch) {
  const Unpacked rows{scratch, x.padded};
  const AdapterRows* unpacked = nullptr;
  prefetch_shrink(step.shrinks[first]);
  for (const ShrinkItem *item = &step.shrinks[first], *end = item + (last - first); item < end; ++item) {
    if (item + 1 < end) prefetch_shrink(item[1]);
    const LoraPart& part = *item->part;
    const AdapterRows& group = *item->group;
    if (unpacked != &group)
      for (int r = 0; r < group.count; ++r) unpack_activations(x, group.rows[r], rows.exact(r), rows.rounded(r));
    unpacked = &group;
    for (int done = 0; done < group.count; done += kAdapterRows)
      with_count<kAdapterRows>(std::min(kAdapterRows, group.count - done), [&](auto count) {
        float* out[kAdapterRows];
        for (int r = 0; r < count(); ++r) out[r] = step.shrunk_row(group.rows[done + r]) + item->column;
        if (part.wide) shrink_tile<count(), true>(part, item->tile, rows.from(done), out);
        else shrink_tile<count(), false>(part, item->tile, rows.from(done), out);
      });
  }
}

template <int R, bool WIDE>
inline void expand_tile(const LoraPart& part, int tile, const float* const* h, F* const* acc) {
  const uint8_t* b = part.b_tile(tile);
  F sums[R];
  for (int r = 0; r < R; ++r) sums[r] = zero();
  for (int j = 0; j < part.rank; j += 2, b += kPairBytes<WIDE>)
    for (int r = 0; r < R; ++r)
      sums[r] = add_pair<WIDE>(sums[r], b, h[r] + j, reinterpret_cast<const uint16_t*>(h[r]) + j);
  for (int r = 0; r < R; ++r) *acc[r] = add(*acc[r], sums[r]);
}

// The updates of `count` tiles from `tile` on of the weight sites[index], for one block of the rows of x;
// acc[t * kRowBlock + r] are the sums of its row r and tile t.
__attribute__((noinline)) inline void expand(const std::vector<int>& sites, size_t index, const Step& step,
                                            const Rows& x, int tile, int count, int block, F* acc) {
  const AdapterGroups& groups = step.adapters_of(x);
  for (int g = groups.starts[block]; g < groups.starts[block + 1]; ++g) {
    const AdapterRows& group = groups.by_block[g];
    const LoraPart& part = group.adapter->part(sites[index]);
    if (part.rank == 0) continue;
    int column = 0;
    for (size_t i = 0; i < index; ++i) column += group.adapter->part(sites[i]).tiles() * kTile;
    for (int done = 0; done < group.count; done += kAdapterRows)
      with_count<kAdapterRows>(std::min(kAdapterRows, group.count - done), [&](auto rows) {
        const float* h[kAdapterRows];
        F* to[kAdapterRows];
        for (int r = 0; r < rows(); ++r) {
          h[r] = step.shrunk_row(group.rows[done + r]) + column;
          to[r] = acc + group.rows[done + r] % kRowBlock;
        }
        for (int t = 0; t < count; ++t) {
          if (part.wide) expand_tile<rows(), true>(part, tile + t, h, to);
          else expand_tile<rows(), false>(part, tile + t, h, to);
          for (int r = 0; r < rows(); ++r) to[r] += kRowBlock;
        }
      });
  }
}

// Calls run(adapter) for each adapter of the rows.
template <class Run>
inline void for_adapters(const AdapterGroups& groups, Run run) {
  const Adapter* last = nullptr;
  for (const AdapterRows& group : groups.all)
    if (group.adapter != last) run(*(last = group.adapter));
}

// Asks for what expand() will read of `count` tiles of a weight.
inline void prefetch_expand(int site, const AdapterGroups& groups, int tile, int count) {
  for_adapters(groups, [&](const Adapter& adapter) {
    const LoraPart& part = adapter.part(site);
    prefetch(part.b_tile(tile), count * part.b_tile_bytes());
  });
}

// For how many tiles prefetch_expand() may ask at once, of kTilesAtOnce at most: more lines than a core can wait for
// would hold up the products that are meant to hide them.
inline int tiles_a_burst(int site, const AdapterGroups& groups) {
  constexpr size_t kBurst = 64 * 64;
  size_t bytes = 0;
  for_adapters(groups, [&](const Adapter& adapter) { bytes += adapter.part(site).b_tile_bytes(); });
  return static_cast<int>(std::clamp<size_t>(kBurst / std::max<size_t>(bytes, 1), 1, kTilesAtOnce));
}

}  // namespace PACELINE_ISA
