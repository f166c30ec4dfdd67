// Reading and writing the paged cache (HeadLayout says how a block holds keys and values).
#pragma once

#include <algorithm>

#include "math.h"
#include "rows.h"

namespace PACELINE_ISA {

// `put` writes 16 values. kPaired: HeadLayout's, known to the compiler.
struct CacheF32 {
  static constexpr CacheType kType = CacheType::F32;
  static constexpr bool kPaired = false;
  using Item = float;
  static F get(const Item* p) { return load(p); }
  static void put(Item* p, F v) { store(p, v); }
};
struct CacheF16 {
  static constexpr CacheType kType = CacheType::F16;
  static constexpr bool kPaired = false;
  using Item = uint16_t;
  static F get(const Item* p) { return load_f16(p); }
  // The largest float16 in place of infinity: one outlier must not turn scores of other keys into NaN. (With the bounds
  // as first operands a NaN stays one.)
  static void put(Item* p, F v) { store_f16(p, min(set1(65504.0f), max(set1(-65504.0f), v))); }
};
struct CacheBf16 {
  static constexpr CacheType kType = CacheType::BF16;
  static constexpr bool kPaired = true;
  using Item = uint16_t;
  static void put(Item* p, F v) {
    alignas(64) float values[16];
    store(values, v);
    if constexpr (kBf16Activations) return round_bf16(values, p);
    for (int i = 0; i < 16; ++i) {
      uint32_t bits;
      __builtin_memcpy(&bits, values + i, 4);
      p[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // round to nearest even
    }
  }
};

template <class C>
struct Head {  // one kv head of one block
  typename C::Item* keys;
  typename C::Item* values;
};

template <class C>
inline HeadLayout layout_of(const AttentionOp& op) {
  return HeadLayout(C::kType, op.dim);
}

template <class C>
inline Head<C> head_at(const AttentionOp& op, int block, int kv_head) {
  uint8_t* at = op.cache->data + block * op.cache->block_bytes + op.layer_in_group * op.cache->layer_bytes +
                kv_head * op.cache->head_bytes;
  auto* keys = reinterpret_cast<typename C::Item*>(at);
  return {keys, keys + layout_of<C>(op).key_items()};
}

// Optional norm, then rotate-half rotation of the first 2 * half dims.
inline void rotate_head(const float* from, const float* norm, float eps, const float* cos_sin, int half, int dim,
                        float* to) {
  for (int d = 0; d < dim; ++d) to[d] = from[d];
  if (norm) {
    const float scale = rms_scale(from, dim, eps);
    for (int d = 0; d < dim; ++d) to[d] = from[d] * scale * norm[d];
  }
  for (int i = 0; i < half; ++i) {
    const float c = cos_sin[i], s = cos_sin[half + i], a = to[i], b = to[half + i];
    to[i] = a * c - b * s;
    to[half + i] = b * c + a * s;
  }
}

// The queries, key and value of one kv head of one row: norm, rotation, key and value into the row's slot.
template <class C>
inline void store_head(const AttentionOp& op, const Step& step, const std::vector<Rope>& ropes, int row, int kv_head) {
  constexpr int kMaxDim = 512;
  float rotated[kMaxDim];
  float* qkv = plain_row(op.qkv, row);
  const int per = op.heads / op.kv_heads, dim = op.dim;
  const Rope* rope = op.rope >= 0 ? &ropes[op.rope] : nullptr;
  const int half = rope ? static_cast<int>(rope->inv_freq.size()) : 0;
  const float* cos_sin = rope ? rope->table + static_cast<size_t>(row) * 2 * half : nullptr;
  const bool each = !op.norm_whole;
  for (int h = kv_head * per; h < (kv_head + 1) * per; ++h) {
    rotate_head(qkv + h * dim, each ? op.q_norm : nullptr, op.eps, cos_sin, half, dim, rotated);
    float* q = plain_row(op.q, row) + h * dim;
    for (int d = 0; d < dim; ++d) q[d] = rotated[d] * op.scale;
  }
  const float* key = qkv + (op.heads + kv_head) * dim;
  const float* value = qkv + (op.heads + op.kv_heads + kv_head) * dim;
  rotate_head(key, each ? op.k_norm : nullptr, op.eps, cos_sin, half, dim, rotated);
  const int slot = step.slots[static_cast<size_t>(op.group) * step.rows + row];
  const Head<C> head = head_at<C>(op, slot / kBlock, kv_head);
  const HeadLayout layout = layout_of<C>(op);
  const int lane = slot % kBlock;
  for (int d = 0; d < dim; d += 16) {
    const int count = std::min(16, dim - d);
    typename C::Item items[16];
    C::put(items, load_n(rotated + d, count));
    for (int i = 0; i < round_up(count, 2); ++i) head.keys[layout.key(lane, d + i)] = items[i];  // a filled-up dim is 0
    C::put(items, load_n(value + d, count));
    for (int i = 0; i < 16; ++i) head.values[layout.value(lane, d + i)] = items[i];
  }
}

// Norm over all heads of a row at once, in place (before store_head).
inline void norm_whole_row(const AttentionOp& op, int row) {
  float* q = plain_row(op.qkv, row);
  const int widths[2] = {op.heads * op.dim, op.kv_heads * op.dim};
  const float* norms[2] = {op.q_norm, op.k_norm};
  for (int part = 0; part < 2; ++part) {
    if (norms[part]) {
      const float scale = rms_scale(q, widths[part], op.eps);
      for (int i = 0; i < widths[part]; ++i) q[i] = q[i] * scale * norms[part][i];
    }
    q += widths[part];
  }
}

template <class C>
inline void store_row(const AttentionOp& op, const Step& step, const std::vector<Rope>& ropes, int row) {
  if (op.norm_whole) norm_whole_row(op, row);
  for (int h = 0; h < op.kv_heads; ++h) store_head<C>(op, step, ropes, row, h);
}

}  // namespace PACELINE_ISA
