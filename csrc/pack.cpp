#include "pack.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace paceline {
namespace {

template <class T>
const T* row_of(const uint8_t* data, int row, int columns) {
  return reinterpret_cast<const T*>(data) + static_cast<size_t>(row) * columns;
}

template <class T>
void pack_dense(const WeightView& w, int first, int outs, bool pairs, uint8_t* tile) {
  T* to = reinterpret_cast<T*>(tile);
  for (int o = 0; o < outs; ++o) {
    const T* from = row_of<T>(w.data, first + o, w.columns);
    for (int k = 0; k < w.columns; ++k) {
      const size_t at = pairs ? static_cast<size_t>(k / 2) * 32 + o * 2 + k % 2 : static_cast<size_t>(k) * 16 + o;
      to[at] = from[k];
    }
  }
}

// Scales (or minima) of one tile, each repeated where the file's group spans several of ours.
template <class T>
void pack_scales(const WeightView& w, const Segment& s, const uint8_t* from, int first, int outs, uint8_t* tile) {
  const int per_row = w.columns / w.group, repeat = w.group / s.group, per_span = kSpan / s.group;
  for (int o = 0; o < outs; ++o) {
    const T* scale = row_of<T>(from, first + o, per_row);
    for (int g = 0; g < per_row * repeat; ++g)
      reinterpret_cast<T*>(tile + g / per_span * s.span_bytes())[g % per_span * kTile + o] = scale[g / repeat];
  }
}

// Where the 4 (Q8) or 8 (Q4) codes from column k on go.
uint8_t* code_place(const Segment& s, uint8_t* codes, int k, int output) {
  const int codes_a_line = s.kind == Kind::Q4 ? 8 : 4;
  return codes + k / kSpan * s.span_bytes() + k % kSpan / codes_a_line * 64 + output * 4;
}

void pack_q4(const WeightView& w, const Segment& s, int first, int outs, uint8_t* codes) {
  for (int o = 0; o < outs; ++o) {
    const uint8_t* from = row_of<uint8_t>(w.data, first + o, w.columns / 2);
    for (int k = 0; k < w.columns; k += 8) {  // 4 bytes hold codes k..k+7; low nibbles become k..k+3, high k+4..k+7
      uint8_t* to = code_place(s, codes, k, o);
      const uint8_t* b = from + k / 2;
      to[0] = (b[0] & 15) | (b[2] << 4);
      to[1] = (b[0] >> 4) | (b[2] & 0xf0);
      to[2] = (b[1] & 15) | (b[3] << 4);
      to[3] = (b[1] >> 4) | (b[3] & 0xf0);
    }
  }
}

void pack_q8(const WeightView& w, const Segment& s, int first, int outs, uint8_t* codes) {
  for (int o = 0; o < outs; ++o) {
    const uint8_t* from = row_of<uint8_t>(w.data, first + o, w.columns);
    for (int k = 0; k < w.columns; k += 4) std::memcpy(code_place(s, codes, k, o), from + k, 4);
  }
}

}  // namespace

Segment pack(const WeightView& w, Arena& arena) {
  Segment s;
  s.kind = w.kind;
  s.outs = w.rows;
  s.tiles = (w.rows + kTile - 1) / kTile;
  s.k = round_up(w.columns, kSpan);
  if (s.quantized()) {
    if (w.group != 16 && (w.group <= 0 || w.group % kGroup != 0))
      throw std::invalid_argument("group size must be 16 or a multiple of 32");
    if (w.columns % w.group != 0) throw std::invalid_argument("columns must be a multiple of the group size");
    if (w.group == 16 && (w.kind == Kind::Q4 || w.minimum))
      throw std::invalid_argument("groups of 16 are supported for 8-bit codes without minima only");
    s.has_min = w.minimum != nullptr;
    s.scale_f32 = w.scale_f32;
    s.group = std::min(w.group, kGroup);
    s.tile_bytes = static_cast<size_t>(s.k / kSpan) * s.span_bytes();
  } else {
    s.tile_bytes = static_cast<size_t>(s.k) * kTile * (w.kind == Kind::F32 ? 4 : 2);
  }
  uint8_t* data = arena.take(s.tile_bytes * s.tiles);
  s.data = data;
  for (int t = 0; t < s.tiles; ++t) {
    uint8_t* tile = data + t * s.tile_bytes;
    const int first = t * kTile, outs = std::min(kTile, w.rows - first);
    if (!s.quantized()) {
      if (w.kind == Kind::F32) pack_dense<uint32_t>(w, first, outs, false, tile);
      else pack_dense<uint16_t>(w, first, outs, w.kind == Kind::BF16, tile);
      continue;
    }
    const auto scales = s.scale_f32 ? pack_scales<uint32_t> : pack_scales<uint16_t>;
    scales(w, s, w.scale, first, outs, tile);
    if (s.has_min) scales(w, s, w.minimum, first, outs, tile + s.scale_bytes());
    (w.kind == Kind::Q4 ? pack_q4 : pack_q8)(w, s, first, outs, tile + s.span_bytes() - s.code_bytes());
  }
  return s;
}

}  // namespace paceline
