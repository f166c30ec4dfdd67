// Elementary functions on 16 lanes. Each is a fixed sequence of operations, so equal inputs give equal bits everywhere.
#pragma once

#include <cmath>

namespace PACELINE_ISA {

// min and max give their second operand where one is NaN: a NaN must come out of these functions as it went in.

// e^x, relative error about 2e-7; exactly 1 at 0 and exactly 0 below -87.
inline F exp(F x) {
  const F bound = set1(-87.0f);
  const F clamped = min(set1(88.0f), max(bound, x));
  const F whole = round(mul(clamped, set1(1.44269504088896341f)));
  F rest = fnma(whole, set1(0.693359375f), clamped);  // ln 2 in two parts
  rest = fnma(whole, set1(-2.12194440e-4f), rest);
  F p = set1(1.9875691500e-4f);  // Cephes expf coefficients
  p = fma(p, rest, set1(1.3981999507e-3f));
  p = fma(p, rest, set1(8.3334519073e-3f));
  p = fma(p, rest, set1(4.1665795894e-2f));
  p = fma(p, rest, set1(1.6666665459e-1f));
  p = fma(p, rest, set1(5.0000001201e-1f));
  p = add(fma(p, mul(rest, rest), rest), set1(1.0f));
  return zero_below(mul(p, pow2(whole)), x, bound);
}

// 1 - 2 / (e^2x + 1); saturates cleanly. Near 0 the absolute error stays below 1e-7.
inline F tanh(F x) {
  const F e = exp(mul(min(set1(40.0f), x), set1(2.0f)));
  return sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
}

inline F silu(F x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

inline F gelu_tanh(F x) {  // 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
  const F cube = mul(mul(x, x), x);
  const F inner = mul(set1(0.7978845608028654f), fma(set1(0.044715f), cube, x));
  return mul(mul(set1(0.5f), x), add(set1(1.0f), tanh(inner)));
}

inline F gelu_erf(F x) {
  alignas(64) float t[16];
  store(t, x);
  for (float& v : t) v = 0.5f * v * (1.0f + std::erf(v * 0.70710678118654752f));
  return load(t);
}

enum class Act : int { Silu = 0, GeluTanh = 1, Gelu = 2 };

inline F activate(Act act, F x) {
  switch (act) {
    case Act::GeluTanh: return gelu_tanh(x);
    case Act::Gelu: return gelu_erf(x);
    default: return silu(x);
  }
}

}  // namespace PACELINE_ISA
