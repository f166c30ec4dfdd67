// LoRA adapters, packed for the kernels, in numbered slots. Loaded and unloaded between steps only.
#pragma once

#include <memory>
#include <vector>

#include "arena.h"
#include "layout.h"

namespace paceline {

// The update of one weight by one adapter: y += scale * B (A x). Both matrices lie in tiles of 16 of their outputs, so
// that products are chains of multiply-adds on whole vectors; numbers are bfloat16, or float32 where `wide`.
struct LoraPart {
  int rank = 0;    // rounded up to a multiple of 2; 0: the adapter leaves the weight as it is
  int inputs = 0;  // rounded up to a multiple of 8
  bool wide = false;
  float scale = 0.0f;
  const uint8_t* a = nullptr;  // [rank / 16][inputs / 2][16][2], filled up with zeros; float32: [..][2][16]
  const uint8_t* b = nullptr;  // [outs / 16][rank / 2][16][2], likewise

  int tiles() const { return (rank + kTile - 1) / kTile; }  // of the rank
  size_t a_tile_bytes() const { return static_cast<size_t>(inputs) * kTile * (wide ? 4 : 2); }
  size_t b_tile_bytes() const { return static_cast<size_t>(rank) * kTile * (wide ? 4 : 2); }
  const uint8_t* a_tile(int tile) const { return a + tile * a_tile_bytes(); }
  const uint8_t* b_tile(int tile) const { return b + tile * b_tile_bytes(); }
};

struct Adapter {
  std::vector<LoraPart> parts;  // by site, a number that the backend gives each weight
  Arena arena;

  static const LoraPart& nothing();
  const LoraPart& part(int site) const {
    return site >= 0 && site < static_cast<int>(parts.size()) ? parts[site] : nothing();
  }
};

// One part as it comes in: row-major matrices of bfloat16 or float32.
struct LoraView {
  int site;
  int rank, inputs, outs;
  bool wide;
  float scale;
  const uint8_t* a;  // [rank][inputs]
  const uint8_t* b;  // [outs][rank]
};

class Adapters {
 public:
  explicit Adapters(int slots) : slots_(slots) {}
  Adapters(const Adapters&) = delete;
  Adapters& operator=(const Adapters&) = delete;

  void load(int index, const std::vector<LoraView>& parts);
  void unload(int index) { slots_.at(index).reset(); }
  const Adapter& at(int index) const;  // throws where the slot is empty

 private:
  std::vector<std::unique_ptr<Adapter>> slots_;
};

}  // namespace paceline
