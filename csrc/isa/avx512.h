// 16 float lanes in one 512-bit register; integer dot products by VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PACELINE_MAX_ROWS 8

namespace PACELINE_ISA {

// Register blocking of attention: queries that share a load of keys; queries and vectors that share a load of values.
constexpr int kScoreQueries = 6, kScoreTiles = 2, kValueQueries = 6, kValueVectors = 4;

using F = __m512;
using I = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float v) { return _mm512_set1_ps(v); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline void store_n(float* p, F v, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 0 where x < bound, else value
inline F zero_below(F value, F x, F bound) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), value);
}
inline F pow2(F whole) {  // 2^whole for whole in [-126, 127]
  const I biased = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline float hsum(F v) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float hmax(F v) {
  __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline F load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_f16(uint16_t* p, F v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
inline void store_i8(int8_t* p, F v) {  // v holds whole numbers in [-127, 127]
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
inline F load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }

// Four int8 activations at a time of row r; rows of a group are 32 bytes apart.
inline const int32_t* row_of(const int8_t* x, int r) { return reinterpret_cast<const int32_t*>(x + 32 * r); }

// Dot products of one group of 32 codes with R rows. x: their int8 activations; n8[r] = -8 * the sum of row r's.
// dot[r] = sum of (code - zero point) * x, or sum of code * x when the weight has minima.
// With few rows several accumulators a row keep the dot-product units busy; integer sums are exact in any order.
template <int R>
constexpr int kChains = R == 1 ? 4 : R <= 3 ? 2 : 1;

template <int R, int CHAINS>
inline void join_chains(I (*part)[CHAINS], I* dot) {
  for (int r = 0; r < R; ++r) {
    dot[r] = part[r][0];
    for (int c = 1; c < CHAINS; ++c) dot[r] = _mm512_add_epi32(dot[r], part[r][c]);
  }
}

template <int R, bool MIN>
inline void dot_q4(const uint8_t* codes, const int8_t* x, const int32_t* n8, I* dot) {
  constexpr int C = kChains<R>;
  const I low = _mm512_set1_epi8(15);
  I part[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) part[r][c] = MIN || c > 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(n8[r]);
  for (int j = 0; j < 4; ++j) {
    const I both = _mm512_loadu_si512(codes + 64 * j);
    const I a = _mm512_and_si512(both, low);
    const I b = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    for (int r = 0; r < R; ++r) {
      const int32_t* xr = row_of(x, r) + 2 * j;
      I& even = part[r][2 * j % C];
      even = _mm512_dpbusd_epi32(even, a, _mm512_set1_epi32(xr[0]));
      I& odd = part[r][(2 * j + 1) % C];
      odd = _mm512_dpbusd_epi32(odd, b, _mm512_set1_epi32(xr[1]));
    }
  }
  join_chains<R>(part, dot);
}

// LINES lines of 4 codes: 8 for a group of 32, 4 for one of 16 (then n8 is the sum over those 16).
template <int R, bool MIN, int LINES>
inline void dot_q8(const uint8_t* codes, const int8_t* x, const int32_t* n8, I* dot) {
  constexpr int C = kChains<R>;
  I part[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) part[r][c] = MIN || c > 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(n8[r] * 16);
  for (int j = 0; j < LINES; ++j) {
    const I line = _mm512_loadu_si512(codes + 64 * j);
    for (int r = 0; r < R; ++r) {
      I& sum = part[r][j % C];
      sum = _mm512_dpbusd_epi32(sum, line, _mm512_set1_epi32(row_of(x, r)[j]));
    }
  }
  join_chains<R>(part, dot);
}

#if defined(__AVX512BF16__)
constexpr bool kBf16Activations = true;
inline void round_bf16(const float* from, uint16_t* to) {
  const __m256bh h = _mm512_cvtneps_pbh(_mm512_loadu_ps(from));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<const __m256i&>(h));
}
// acc += line[16 outs][2] . (two bf16 activations)
inline F dot_bf16(F acc, const uint16_t* line, const uint16_t* x, const float*) {
  const I pair = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x));
  const I w = _mm512_loadu_si512(line);
  return _mm512_dpbf16_ps(acc, reinterpret_cast<const __m512bh&>(w), reinterpret_cast<const __m512bh&>(pair));
}
#else
constexpr bool kBf16Activations = false;
inline void round_bf16(const float*, uint16_t*) {}
inline F dot_bf16(F acc, const uint16_t* line, const uint16_t*, const float* x) {
  const I w = _mm512_loadu_si512(line);
  const I top = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  acc = fma(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), set1(x[0]), acc);
  return fma(_mm512_castsi512_ps(_mm512_and_si512(w, top)), set1(x[1]), acc);
}
#endif

}  // namespace PACELINE_ISA
