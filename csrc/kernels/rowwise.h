// Ops that work on whole rows: embedding, norm and residual addition, rotary tables.
#pragma once

#include "math.h"
#include "rows.h"

namespace PACELINE_ISA {

// One row of a tiled weight as floats (embedding look-up).
inline void unpack_row(const Segment& s, int row, float* to) {
  const uint8_t* tile = s.data + static_cast<size_t>(row / kTile) * s.tile_bytes;
  const int lane = row % kTile;
  const auto number = [&](const uint8_t* base, int g) {
    if (s.scale_f32) return reinterpret_cast<const float*>(base)[g * kTile + lane];
    return _cvtsh_ss(reinterpret_cast<const uint16_t*>(base)[g * kTile + lane]);
  };
  const auto half = [](const uint8_t* base, size_t i) { return reinterpret_cast<const uint16_t*>(base)[i]; };
  for (int k = 0; k < s.k; ++k) {
    switch (s.kind) {
      case Kind::F32: to[k] = reinterpret_cast<const float*>(tile)[k * kTile + lane]; break;
      case Kind::F16: to[k] = _cvtsh_ss(half(tile, k * kTile + lane)); break;
      case Kind::BF16: {
        const uint32_t bits = static_cast<uint32_t>(half(tile, k / 2 * 32 + lane * 2 + k % 2)) << 16;
        __builtin_memcpy(to + k, &bits, 4);
        break;
      }
      default: {
        const bool four = s.kind == Kind::Q4;
        const uint8_t* span = tile + k / kSpan * s.span_bytes();
        const int line = k % kSpan / (four ? 8 : 4), group = k % kSpan / s.group;
        const uint8_t byte = span[s.span_bytes() - s.code_bytes() + line * 64 + lane * 4 + k % 4];
        const int code = !four ? byte : k % 8 < 4 ? byte & 15 : byte >> 4;
        const float scale = number(span, group);
        to[k] = s.has_min ? scale * code + number(span + s.scale_bytes(), group) : scale * (code - (four ? 8 : 128));
      }
    }
  }
}

inline void run_embed(const EmbedOp& op, const Step& step, int row) {
  const int token = step.token_ids[row];
  float* to = plain_row(op.out, row);
  for (const Segment& s : op.table->segments)
    if (token >= s.first_out && token < s.first_out + s.outs) unpack_row(s, token - s.first_out, to);
  const F scale = set1(op.scale);
  for (int i = 0; i < op.out.padded; i += 16) store(to + i, mul(load(to + i), scale));
}

// `scratch` holds two padded rows.
inline void run_rowwise(const RowwiseOp& op, const Step& step, int row, float* scratch) {
  const int width = op.x.width;
  float* x = plain_row(op.x, op.selects() ? step.selected[row] : row);
  if (op.has_add) {
    const float* y = plain_row(op.y, row);
    if (op.y_norm) {
      scale_row(y, rms_scale(y, width, op.eps), op.y_norm, width, scratch);
      y = scratch;
    }
    const F scale = set1(op.y_scale);
    for (int i = 0; i < op.x.padded; i += 16) store(x + i, add(load(x + i), mul(load(y + i), scale)));
  }
  if (!op.want) return;
  const float* out = x;
  if (op.norm) {
    scale_row(x, rms_scale(x, width, op.eps), op.norm, width, scratch);
    out = scratch;
  }
  write_forms(op.out, op.want, row, 0, width, out);
}

inline void run_rope_table(const Rope& rope, const Step& step, int row) {
  const int half = static_cast<int>(rope.inv_freq.size());
  float* to = rope.table + static_cast<size_t>(row) * 2 * half;
  const float position = static_cast<float>(step.positions[row]);
  for (int i = 0; i < half; ++i) {
    const float angle = position * rope.inv_freq[i];
    to[i] = std::cos(angle) * rope.factor;
    to[half + i] = std::sin(angle) * rope.factor;
  }
}

}  // namespace PACELINE_ISA
