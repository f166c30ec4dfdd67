// 16 float lanes in two 256-bit registers; integer dot products by multiply-add of bytes to 16-bit pairs.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PACELINE_MAX_ROWS 4

namespace PACELINE_ISA {

// Register blocking of attention: queries that share a load of keys; queries and vectors that share a load of values.
constexpr int kScoreQueries = 2, kScoreTiles = 1, kValueQueries = 2, kValueVectors = 2;

struct F {
  __m256 lo, hi;
};
struct I {
  __m256i lo, hi;
};

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline F load_n(const float* p, int n) {
  alignas(32) float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
inline void store_n(float* p, F v, int n) {
  alignas(32) float t[16];
  store(t, v);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F abs(F a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline F round(F a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
inline F zero_below(F value, F x, F bound) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ), value.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ), value.hi)};
}
inline __m256 pow2_half(__m256 v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127)), 23));
}
inline F pow2(F whole) { return {pow2_half(whole.lo), pow2_half(whole.hi)}; }
inline float hsum(F v) {
  const __m256 h = _mm256_add_ps(v.lo, v.hi);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float hmax(F v) {
  const __m256 h = _mm256_max_ps(v.lo, v.hi);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline __m128i load_16b(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline F load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_16b(p)), _mm256_cvtph_ps(load_16b(p + 8))}; }
inline void store_f16(uint16_t* p, F v) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.lo, mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(v.hi, mode));
}
inline __m256 bf16_half(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
inline F load_bf16(const uint16_t* p) { return {bf16_half(load_16b(p)), bf16_half(load_16b(p + 8))}; }
inline void store_i8(int8_t* p, F v) {
  alignas(32) float t[16];
  store(t, v);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(t[i]);
}
inline F load_i8(const int8_t* p) {
  const __m128i bytes = load_16b(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline F to_float(I v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
// Four int8 activations at a time of row r; rows of a group are 32 bytes apart.
inline const int32_t* row_of(const int8_t* x, int r) { return reinterpret_cast<const int32_t*>(x + 32 * r); }
inline __m256i load_32b(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

template <int R, bool MIN>
inline void dot_q4(const uint8_t* codes, const int8_t* x, const int32_t* n8, I* dot) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {
    __m256i sum[R];  // 16 products of at most 15 * 127 fit 16 bits
    for (int r = 0; r < R; ++r) sum[r] = _mm256_setzero_si256();
    for (int j = 0; j < 4; ++j) {
      const __m256i both = load_32b(codes + 64 * j + 32 * half);
      const __m256i a = _mm256_and_si256(both, low);
      const __m256i b = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      for (int r = 0; r < R; ++r) {
        const int32_t* xr = row_of(x, r) + 2 * j;
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(a, _mm256_set1_epi32(xr[0])));
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(b, _mm256_set1_epi32(xr[1])));
      }
    }
    for (int r = 0; r < R; ++r) {
      const __m256i start = MIN ? _mm256_setzero_si256() : _mm256_set1_epi32(n8[r]);
      (half ? dot[r].hi : dot[r].lo) = _mm256_add_epi32(start, _mm256_madd_epi16(sum[r], ones));
    }
  }
}

template <int R, bool MIN, int LINES>
inline void dot_q8(const uint8_t* codes, const int8_t* x, const int32_t* n8, I* dot) {
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80)), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {
    __m256i sum[R];
    // Codes are made signed (code - 128); with minima the 128 * sum(x) taken away is given back.
    for (int r = 0; r < R; ++r) sum[r] = MIN ? _mm256_set1_epi32(n8[r] * -16) : _mm256_setzero_si256();
    for (int j = 0; j < LINES; ++j) {
      const __m256i w = _mm256_xor_si256(load_32b(codes + 64 * j + 32 * half), flip);
      const __m256i size = _mm256_abs_epi8(w);  // 128 stays 128 as an unsigned byte
      for (int r = 0; r < R; ++r) {
        const __m256i xr = _mm256_set1_epi32(row_of(x, r)[j]);
        const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(xr, w));
        sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
      }
    }
    for (int r = 0; r < R; ++r) (half ? dot[r].hi : dot[r].lo) = sum[r];
  }
}

constexpr bool kBf16Activations = false;
inline void round_bf16(const float*, uint16_t*) {}
inline F dot_bf16(F acc, const uint16_t* line, const uint16_t*, const float* x) {
  const __m256i lo = load_32b(line), hi = load_32b(line + 16), top = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const F even = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  const F odd = {_mm256_castsi256_ps(_mm256_and_si256(lo, top)), _mm256_castsi256_ps(_mm256_and_si256(hi, top))};
  return fma(odd, set1(x[1]), fma(even, set1(x[0]), acc));
}

}  // namespace PACELINE_ISA
