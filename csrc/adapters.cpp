#include "adapters.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace paceline {
namespace {

// Tiles of 16 rows; columns in pairs, padded to a multiple of `step`.
template <class T>
const uint8_t* pack_tiles(const uint8_t* data, int rows, int columns, int step, Arena& arena) {
  const T* from = reinterpret_cast<const T*>(data);
  const int tiles = (rows + kTile - 1) / kTile, padded = round_up(columns, step);
  constexpr int kColumn = sizeof(T) == 4 ? kTile : 1, kRow = sizeof(T) == 4 ? 1 : 2;
  auto* to = reinterpret_cast<T*>(arena.take(static_cast<size_t>(tiles) * padded * kTile * sizeof(T)));
  for (int row = 0; row < rows; ++row) {
    T* tile = to + static_cast<size_t>(row / kTile) * padded * kTile + row % kTile * kRow;
    for (int k = 0; k < columns; ++k)
      tile[k / 2 * 2 * kTile + k % 2 * kColumn] = from[static_cast<size_t>(row) * columns + k];
  }
  return reinterpret_cast<const uint8_t*>(to);
}

}  // namespace

const LoraPart& Adapter::nothing() {
  static const LoraPart part;
  return part;
}

void Adapters::load(int index, const std::vector<LoraView>& parts) {
  auto adapter = std::make_unique<Adapter>();
  const uint8_t *packed_a = nullptr, *last_a = nullptr;
  for (const LoraView& view : parts) {
    const auto pack = view.wide ? pack_tiles<uint32_t> : pack_tiles<uint16_t>;
    // Parts of a fused weight share one A, one behind the other.
    if (view.a != last_a) packed_a = pack(view.a, view.rank, view.inputs, 8, adapter->arena);
    last_a = view.a;
    const uint8_t* b = pack(view.b, view.outs, view.rank, 2, adapter->arena);
    adapter->parts.resize(std::max<size_t>(adapter->parts.size(), view.site + 1));
    adapter->parts[view.site] = {round_up(view.rank, 2), round_up(view.inputs, 8), view.wide, view.scale, packed_a, b};
  }
  slots_.at(index) = std::move(adapter);
}

const Adapter& Adapters::at(int index) const {
  if (index < 0 || index >= static_cast<int>(slots_.size()) || !slots_[index])
    throw std::invalid_argument("a sequence names adapter slot " + std::to_string(index) + ", which is empty");
  return *slots_[index];
}

}  // namespace paceline
