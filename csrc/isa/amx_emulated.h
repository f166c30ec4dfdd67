// The tile instructions in plain C++, with the processor's checks: where it would fault, the process is aborted.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace PACELINE_ISA {

struct TileFile {
  bool configured = false;
  TileConfig config;
  uint8_t data[8][16][64];
};

inline TileFile& tile_file() {
  thread_local TileFile file;
  return file;
}

inline void tile_check(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "paceline: emulated tile registers: %s\n", what);
  std::abort();
}

inline void tile_configure(const TileConfig& config) {
  tile_check(config.palette == 1 && config.start_row == 0, "unknown palette");
  for (int t = 0; t < 16; ++t)
    tile_check(config.rows[t] <= (t < 8 ? 16 : 0) && config.row_bytes[t] <= (t < 8 ? 64 : 0), "a tile is too large");
  tile_file().config = config;
  tile_file().configured = true;
  std::memset(tile_file().data, 0, sizeof(tile_file().data));
}

inline void tile_release() { tile_file().configured = false; }

// The tile with its rows and bytes a row.
struct TileView {
  uint8_t (*data)[64];
  int rows, row_bytes;
};

inline TileView tile_view(int tile) {
  TileFile& file = tile_file();
  tile_check(file.configured, "used before they were configured");
  tile_check(file.config.rows[tile] > 0 && file.config.row_bytes[tile] > 0, "a tile without a shape was used");
  return {file.data[tile], file.config.rows[tile], file.config.row_bytes[tile]};
}

template <int TILE>
inline void tile_zero() {
  std::memset(tile_view(TILE).data, 0, 16 * 64);
}

template <int TILE>
inline void tile_load(const void* from, long stride) {
  const TileView tile = tile_view(TILE);
  std::memset(tile.data, 0, 16 * 64);
  for (int row = 0; row < tile.rows; ++row)
    std::memcpy(tile.data[row], static_cast<const uint8_t*>(from) + row * stride, tile.row_bytes);
}

template <int TILE>
inline void tile_store(void* to, long stride) {
  const TileView tile = tile_view(TILE);
  for (int row = 0; row < tile.rows; ++row)
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, tile.data[row], tile.row_bytes);
}

template <int SUMS, int X, int W>
inline void tile_dot() {
  const TileView sums = tile_view(SUMS), x = tile_view(X), w = tile_view(W);
  static_assert(SUMS != X && SUMS != W && X != W, "the processor faults on equal operands");
  tile_check(sums.rows == x.rows && sums.row_bytes == w.row_bytes && x.row_bytes == 4 * w.rows, "shapes do not fit");
  for (int m = 0; m < sums.rows; ++m)
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, &sums.data[m][4 * n], 4);
      for (int k = 0; k < w.rows; ++k)
        for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(x.data[m][4 * k + i]) * w.data[k][4 * n + i];
      std::memcpy(&sums.data[m][4 * n], &sum, 4);
    }
}

}  // namespace PACELINE_ISA
