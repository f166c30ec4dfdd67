// Activations in the forms that matrix products read.
#pragma once

#include <type_traits>

#include "../layout.h"
#include "../ops.h"

namespace PACELINE_ISA {

using namespace paceline;

// Calls run with `count` as a compile-time constant, for count in [1, MAX]: kernels keep that many rows in registers.
template <int MAX, class Run>
inline void with_count(int count, Run run) {
  if constexpr (MAX > 0) {
    if (count == MAX) run(std::integral_constant<int, MAX>{});
    else with_count<MAX - 1>(count, run);
  }
}

// The same for two flags.
template <class Run>
inline void with_flags(bool a, bool b, Run run) {
  using Yes = std::true_type;
  using No = std::false_type;
  if (a) b ? run(Yes{}, Yes{}) : run(Yes{}, No{});
  else b ? run(No{}, Yes{}) : run(No{}, No{});
}

// Weights stream from memory once a step: ask for them well before they are needed. 8 KiB ahead measured best (of 0 to
// 8 KiB; 75 against 100 GB/s): at full speed that is little more than the latency of memory.
constexpr int kAhead = 8192;

template <int BYTES>
inline void prefetch_ahead(const uint8_t* p) {
  for (int i = 0; i < BYTES; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T0);
}

inline float* plain_row(const Rows& rows, int row) { return rows.plain + static_cast<size_t>(row) * rows.padded; }

// int8 with one scale per 32 values: q = round(v * 127 / max|v|). All zero where 127 / max|v| would overflow; a NaN or
// infinity has no code, so it makes the scale NaN.
inline void quantize_group(const float* v, QuantGroup& to, int slot) {
  const F a = load(v), b = load(v + 16);
  const float top = hmax(max(abs(a), abs(b)));
  const F inverse = set1(top > 1e-36f ? 127.0f / top : 0.0f);
  const F qa = round(mul(a, inverse)), qb = round(mul(b, inverse));
  store_i8(to.q[slot], qa);
  store_i8(to.q[slot] + 16, qb);
  const float first = hsum(qa), both = first + hsum(qb);  // whole numbers: exact in any order
  const float zero_or_nan = both - both, scale = top / 127.0f + zero_or_nan;
  to.scale[slot] = scale;
  to.sum[slot] = scale * both;
  to.n8[slot] = zero_or_nan == 0.0f ? -8 * static_cast<int32_t>(both) : 0;
  to.n8_first[slot] = zero_or_nan == 0.0f ? -8 * static_cast<int32_t>(first) : 0;
}

// Writes columns [first, first + count) of a row in the wanted forms; both are multiples of 32 except at the end of the
// row, where v must be readable and zero up to the next multiple. Padding behind that is zero from the start.
inline void write_forms(const Rows& out, int want, int row, int first, int count, const float* v) {
  const int block = row / kRowBlock, slot = row % kRowBlock, end = round_up(count, kGroup);
  if (want & kPlain) {
    float* to = plain_row(out, row) + first;
    for (int i = 0; i < end; i += 16) store(to + i, load(v + i));
  }
  if (want & kQuant) {
    QuantGroup* to = out.quant + static_cast<size_t>(block) * out.groups() + first / kGroup;
    for (int g = 0; g < end / kGroup; ++g) quantize_group(v + g * kGroup, to[g], slot);
  }
  if (want & kDense) {
    float* to = out.dense + (static_cast<size_t>(block) * out.padded + first) * kRowBlock + slot;
    for (int i = 0; i < end; ++i) to[i * kRowBlock] = v[i];
  }
  if constexpr (kBf16Activations) {
    if (!(want & kBf16)) return;
    uint16_t* to = out.bf16 + (static_cast<size_t>(block) * out.padded + first) * kRowBlock + slot * 2;
    alignas(64) uint16_t rounded[16];
    for (int i = 0; i < end; i += 16) {
      round_bf16(v + i, rounded);
      for (int j = 0; j < 16; ++j) to[(i + j) / 2 * (2 * kRowBlock) + j % 2] = rounded[j];
    }
  }
}

// 1 / sqrt(mean(v^2) + eps) over `width` values.
inline float rms_scale(const float* v, int width, float eps) {
  F sums[4] = {zero(), zero(), zero(), zero()};
  int i = 0;
  for (; i + 64 <= width; i += 64)
    for (int j = 0; j < 4; ++j) {
      const F x = load(v + i + 16 * j);
      sums[j] = fma(x, x, sums[j]);
    }
  for (; i < width; i += 16) {
    const F x = i + 16 <= width ? load(v + i) : load_n(v + i, width - i);
    sums[0] = fma(x, x, sums[0]);
  }
  const float total = hsum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  return 1.0f / std::sqrt(total / static_cast<float>(width) + eps);
}

// to = v * scale * weight; writes zeros from width to the end of the padded row.
inline void scale_row(const float* v, float scale, const float* weight, int width, float* to) {
  const F s = set1(scale);
  int i = 0;
  for (; i + 16 <= width; i += 16) store(to + i, mul(mul(load(v + i), s), load(weight + i)));
  if (i < width) {
    store(to + i, mul(mul(load_n(v + i, width - i), s), load_n(weight + i, width - i)));
    i += 16;
  }
  for (; i < round_up(width, kSpan); i += 16) store(to + i, zero());
}

}  // namespace PACELINE_ISA
