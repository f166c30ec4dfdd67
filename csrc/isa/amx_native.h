// The tile instructions, written as assembly: the compilers' intrinsics for loads do not say that they read memory, so
// that a tile could be loaded before its bytes are there.
#pragma once

namespace PACELINE_ISA {

inline void tile_configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }

inline void tile_release() { __asm__ volatile("tilerelease"); }

template <int TILE>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(TILE));
}

// Rows of the tile are `stride` bytes apart in memory.
template <int TILE>
inline void tile_load(const void* from, long stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
}

template <int TILE>
inline void tile_store(void* to, long stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
}

// SUMS[m][n] += sum over k and i in 0..3 of signed X[m][4 k + i] * unsigned W[k][4 n + i], in 32 bits.
template <int SUMS, int X, int W>
inline void tile_dot() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(X), "i"(W));
}

}  // namespace PACELINE_ISA
