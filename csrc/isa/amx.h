// Tile registers of AMX for the products of one weight tile and one block of rows (kernels/matrix_unit.h), or a plain
// emulation of them with PACELINE_EMULATE_AMX. Everything else of these variants is avx512.h.
//
// This code has run on the emulation only: at the time of writing no machine with AMX was at hand.
#pragma once

#include <cstdint>

#include "avx512.h"

#define PACELINE_MATRIX_UNIT

namespace PACELINE_ISA {

// Blocks of fewer rows go to the vector unit: filling tiles and reading them back costs about as much as it saves.
constexpr int kUnitRows = 5;

// What each tile register holds. Two of the first three kinds, so that one group's product is under way while the
// other's is read back.
enum Tile : int { kSums = 0, kActivations = 2, kCodes = 4, kHalfActivations = 6, kHalfCodes = 7 };

// Operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 32, 32, 64, 64, 16, 64};
  uint8_t rows[16] = {8, 8, 8, 8, 8, 8, 8, 4};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace PACELINE_ISA

#if defined(PACELINE_EMULATE_AMX)
#include "amx_emulated.h"
#else
#include "amx_native.h"
#endif

namespace PACELINE_ISA {

// Makes the tile registers usable by this thread while it lives. Nothing is kept between calls: other libraries in the
// process set the registers up for themselves, and idle ones make context switches cheaper.
class MatrixUnit {
 public:
  explicit MatrixUnit(int rows) : on_(rows >= kUnitRows) {
    if (on_) tile_configure(TileConfig());
  }
  ~MatrixUnit() {
    if (on_) tile_release();
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

 private:
  bool on_;
};

}  // namespace PACELINE_ISA
