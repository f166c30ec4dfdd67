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

// Scales (or minima) of one tile: [groups][16], each repeated where the file's group spans several of ours.
template <class T>
void pack_scales(const WeightView& w, const uint8_t* from, int first, int outs, int group, int groups, uint8_t* tile) {
  T* to = reinterpret_cast<T*>(tile);
  const int per_row = w.columns / w.group, repeat = w.group / group;
  for (int o = 0; o < outs; ++o) {
    const T* scale = row_of<T>(from, first + o, per_row);
    for (int g = 0; g < groups && g / repeat < per_row; ++g) to[g * kTile + o] = scale[g / repeat];
  }
}

void pack_q4(const WeightView& w, int first, int outs, uint8_t* codes) {
  for (int o = 0; o < outs; ++o) {
    const uint8_t* from = row_of<uint8_t>(w.data, first + o, w.columns / 2);
    for (int k = 0; k < w.columns; k += 8) {  // 4 bytes hold codes k..k+7; low nibbles become k..k+3, high k+4..k+7
      uint8_t* to = codes + static_cast<size_t>(k / 8) * 64 + o * 4;
      const uint8_t* b = from + k / 2;
      to[0] = (b[0] & 15) | (b[2] << 4);
      to[1] = (b[0] >> 4) | (b[2] & 0xf0);
      to[2] = (b[1] & 15) | (b[3] << 4);
      to[3] = (b[1] >> 4) | (b[3] & 0xf0);
    }
  }
}

void pack_q8(const WeightView& w, int first, int outs, uint8_t* codes) {
  for (int o = 0; o < outs; ++o) {
    const uint8_t* from = row_of<uint8_t>(w.data, first + o, w.columns);
    for (int k = 0; k < w.columns; k += 4) std::memcpy(codes + static_cast<size_t>(k / 4) * 64 + o * 4, from + k, 4);
  }
}

size_t align64(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

}  // namespace

Segment pack(const WeightView& w, Arena& arena) {
  const bool quantized = w.kind == Kind::Q4 || w.kind == Kind::Q8;
  Segment s;
  s.kind = w.kind;
  s.outs = w.rows;
  s.tiles = (w.rows + kTile - 1) / kTile;
  s.k = round_up(w.columns, kGroup);
  if (quantized) {
    if (w.group != 16 && w.group % kGroup != 0) throw std::invalid_argument("group size must be 16 or a multiple of 32");
    if (w.columns % std::max(w.group, 8) != 0) throw std::invalid_argument("columns must be a multiple of the group size");
    if (w.group == 16 && w.kind == Kind::Q4) throw std::invalid_argument("groups of 16 are supported for 8-bit codes only");
    s.has_min = w.minimum != nullptr;
    s.scale_f32 = w.scale_f32;
    s.group = std::min(w.group, kGroup);
    const size_t scales = align64(static_cast<size_t>(s.k / s.group) * kTile * (s.scale_f32 ? 4 : 2));
    s.code_offset = scales * (s.has_min ? 2 : 1);
    s.tile_bytes = s.code_offset + static_cast<size_t>(s.k) * kTile / (w.kind == Kind::Q4 ? 2 : 1);
  } else {
    s.tile_bytes = static_cast<size_t>(s.k) * kTile * (w.kind == Kind::F32 ? 4 : 2);
  }
  uint8_t* data = arena.take(s.tile_bytes * s.tiles);
  s.data = data;
  for (int t = 0; t < s.tiles; ++t) {
    uint8_t* tile = data + t * s.tile_bytes;
    const int first = t * kTile, outs = std::min(kTile, w.rows - first);
    if (!quantized) {
      if (w.kind == Kind::F32) pack_dense<uint32_t>(w, first, outs, false, tile);
      else pack_dense<uint16_t>(w, first, outs, w.kind == Kind::BF16, tile);
      continue;
    }
    const int groups = s.k / s.group;
    const auto scales = s.scale_f32 ? pack_scales<uint32_t> : pack_scales<uint16_t>;
    scales(w, w.scale, first, outs, s.group, groups, tile);
    if (s.has_min) scales(w, w.minimum, first, outs, s.group, groups, tile + s.code_offset / 2);
    (w.kind == Kind::Q4 ? pack_q4 : pack_q8)(w, first, outs, tile + s.code_offset);
  }
  return s;
}

}  // namespace paceline
