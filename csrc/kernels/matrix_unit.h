// Integer products on a matrix unit (isa/amx.h): a group of 32 activations of a whole block of rows times 16 outputs is
// one instruction. The integer sums are exact and everything after them is what linear.h does, operation by operation,
// so the results are bit-identical to those of the vector unit, and a row's result does not depend on who computed it.
//
// bfloat16 products stay on the vector unit: AMX adds their terms in another order, so that rows in small blocks, which
// the vector unit computes, would differ from rows in large ones.
#pragma once

#include "linear.h"

namespace PACELINE_ISA {

static_assert(PACELINE_MAX_ROWS == kRowBlock, "tiles hold whole blocks of rows, from the first one on");

// Four lines with two codes a byte as eight with one.
inline void unpack_codes(const uint8_t* codes, uint8_t* lines) {
  const I low = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    const I both = _mm512_loadu_si512(codes + 64 * j);
    _mm512_store_si512(lines + 128 * j, _mm512_and_si512(both, low));
    _mm512_store_si512(lines + 128 * j + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
  }
}

using UnitSums = int32_t[kRowBlock][kTile];

// The sums of one group for 8 rows, without the zero point; `slot` picks one of two sets of registers and buffers.
template <int SLOT, int CODES>
inline void unit_group(const uint8_t* codes, const int8_t* x, uint8_t* lines, UnitSums& sums) {
  if constexpr (CODES == 256) {
    unpack_codes(codes, lines);
    codes = lines;
  }
  tile_zero<kSums + SLOT>();
  tile_load<kActivations + SLOT>(x, kGroup);
  tile_load<kCodes + SLOT>(codes, 4 * kTile);
  tile_dot<kSums + SLOT, kActivations + SLOT, kCodes + SLOT>();
  tile_store<kSums + SLOT>(sums, 4 * kTile);
}

inline F unit_dot(const int32_t* sums, int32_t zero_point) {
  return to_float(_mm512_add_epi32(_mm512_load_si512(sums), _mm512_set1_epi32(zero_point)));
}

// tile_quantized for a block of at least kUnitRows rows. The unit works on one span while the vector unit scales and
// adds up the sums of the one before.
template <int R, bool MIN, bool WIDE, int CODES>
void unit_quantized(const Segment& s, const uint8_t* p, QuantView x, F* acc) {
  constexpr int kScales = 2 * kTile * (WIDE ? 4 : 2), kMinima = MIN ? kScales : 0;
  constexpr int kBytes = kScales + kMinima + 2 * CODES;
  alignas(64) UnitSums sums[2][2];
  alignas(64) uint8_t lines[2][CODES == 256 ? 512 : 64];
  const int spans = s.k / kSpan;
  const int8_t* q = x.q;
  const auto multiply = [&](int span) {
    const uint8_t* at = p + static_cast<size_t>(span) * kBytes;
    prefetch_ahead<kBytes>(at);
    unit_group<0, CODES>(at + kScales + kMinima, q, lines[0], sums[span % 2][0]);
    unit_group<1, CODES>(at + kScales + kMinima + CODES, q + sizeof(QuantGroup), lines[1], sums[span % 2][1]);
    q += 2 * sizeof(QuantGroup);
  };
  multiply(0);
  for (int span = 0; span < spans; ++span) {
    if (span + 1 < spans) multiply(span + 1);
    const uint8_t* at = p + static_cast<size_t>(span) * kBytes;
    for (int g = 0; g < 2; ++g, x.next()) {
      const F scale = load_scales<WIDE>(at, g);
      for (int r = 0; r < R; ++r) {
        const int32_t zero_point = MIN ? 0 : CODES == 256 ? x.n8()[r] : x.n8()[r] * 16;
        acc[r] = fma(unit_dot(sums[span % 2][g][r], zero_point), mul(scale, x.scale(r)), acc[r]);
      }
      if constexpr (MIN) {
        const F minimum = load_scales<WIDE>(at + kScales, g);
        for (int r = 0; r < R; ++r) acc[r] = fma(minimum, x.sum(r), acc[r]);
      }
    }
  }
}

// tile_halves for such a block.
template <int R, bool WIDE>
void unit_halves(const Segment& s, const uint8_t* p, QuantView x, F* acc) {
  constexpr int kScales = 4 * kTile * (WIDE ? 4 : 2);
  alignas(64) UnitSums sums[4];
  for (int span = s.k / kSpan; span > 0; --span, p += kScales + 1024) {
    prefetch_ahead<kScales + 1024>(p);
    for (int half = 0; half < 4; ++half) {
      tile_zero<kSums>();
      tile_load<kHalfActivations>(x.q + half / 2 * sizeof(QuantGroup) + 16 * (half % 2), kGroup);
      tile_load<kHalfCodes>(p + kScales + 256 * half, 4 * kTile);
      tile_dot<kSums, kHalfActivations, kHalfCodes>();
      tile_store<kSums>(sums[half], 4 * kTile);
    }
    for (int half = 0; half < 4; ++half) {
      const F scale = load_scales<WIDE>(p, half);
      for (int r = 0; r < R; ++r) {
        const int32_t n8 = half % 2 ? x.n8()[r] - x.n8_first()[r] : x.n8_first()[r];
        acc[r] = fma(unit_dot(sums[half][r], n8 * 16), mul(scale, x.scale(r)), acc[r]);
      }
      if (half % 2) x.next();
    }
  }
}

}  // namespace PACELINE_ISA
