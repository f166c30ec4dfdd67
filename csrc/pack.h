// Repacks a canonical weight (quantization/packed.py) into tiles of 16 outputs.
#pragma once

#include "arena.h"
#include "layout.h"

namespace paceline {

struct WeightView {
  Kind kind;
  int rows;
  int columns;
  int group;            // codes that share a scale
  bool scale_f32;       // else float16
  const uint8_t* data;  // row-major, see PackedWeight
  const uint8_t* scale;
  const uint8_t* minimum;  // or null
};

Segment pack(const WeightView& weight, Arena& arena);

}  // namespace paceline
