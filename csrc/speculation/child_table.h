// From (parent node, first token of a label) to the child node, for all nodes of a suffix tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace paceline {

// Open addressing with linear probing. The table is cut into segments that grow and shrink on their own, so that no
// single insertion ever moves all of a large table. Slots keep 32 bits of the hash; whether a node really is the one
// looked for is the caller's to say.
class ChildTable {
 public:
  static constexpr uint32_t kEmpty = 0xFFFFFFFF;

  // `segments` is a power of two.
  explicit ChildTable(size_t segments) : segments_(segments) {}

  static uint64_t hash(uint32_t parent, int32_t token) {
    uint64_t x = (uint64_t{parent} << 32) | static_cast<uint32_t>(token);
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDu;  // the finalizer of MurmurHash3
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
    return x ^ (x >> 33);
  }

  // The node of that hash for which `is(node)` holds, or kEmpty.
  template <class Is>
  uint32_t find(uint64_t hash, Is is) const {
    const Segment& segment = segment_of(hash);
    if (segment.used == 0) return kEmpty;
    const size_t mask = segment.slots.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = segment.slots[i];
      if (slot.node == kEmpty) return kEmpty;
      if (slot.hash == static_cast<uint32_t>(hash) && is(slot.node)) return slot.node;
    }
  }

  // Where a search for `hash` begins; null if there is nothing to find.
  const void* first_slot(uint64_t hash) const {
    const Segment& segment = segment_of(hash);
    return segment.used == 0 ? nullptr : &segment.slots[hash & (segment.slots.size() - 1)];
  }

  void insert(uint64_t hash, uint32_t node) {
    Segment& segment = segment_of(hash);
    if (4 * (segment.used + 1) > 3 * segment.slots.size()) resize(segment, segment.used * 2 + 2);
    place(segment, {static_cast<uint32_t>(hash), node});
    ++segment.used;
  }

  // `node` is in the table under `hash`.
  void replace(uint64_t hash, uint32_t node, uint32_t by) {
    Segment& segment = segment_of(hash);
    segment.slots[index_of(segment, hash, node)].node = by;
  }

  void erase(uint64_t hash, uint32_t node) {
    Segment& segment = segment_of(hash);
    const size_t mask = segment.slots.size() - 1;
    size_t hole = index_of(segment, hash, node);
    // Later members of the run move up unless that would put them before their own place.
    for (size_t i = (hole + 1) & mask; segment.slots[i].node != kEmpty; i = (i + 1) & mask) {
      const size_t home = segment.slots[i].hash & mask;
      if (((i - home) & mask) >= ((i - hole) & mask)) {
        segment.slots[hole] = segment.slots[i];
        hole = i;
      }
    }
    segment.slots[hole].node = kEmpty;
    --segment.used;
    if (segment.slots.size() > kLeast && 8 * segment.used < segment.slots.size()) resize(segment, segment.used * 2);
  }

  size_t bytes() const {
    size_t slots = 0;
    for (const Segment& segment : segments_) slots += segment.slots.capacity();
    return slots * sizeof(Slot) + segments_.size() * sizeof(Segment);
  }

 private:
  static constexpr size_t kLeast = 16;
  struct Slot {
    uint32_t hash;
    uint32_t node;
  };
  struct Segment {
    std::vector<Slot> slots;
    size_t used = 0;
  };

  // The upper half of the hash names the segment, the lower half the slot.
  Segment& segment_of(uint64_t hash) { return segments_[(hash >> 32) & (segments_.size() - 1)]; }
  const Segment& segment_of(uint64_t hash) const { return segments_[(hash >> 32) & (segments_.size() - 1)]; }

  static size_t index_of(const Segment& segment, uint64_t hash, uint32_t node) {
    const size_t mask = segment.slots.size() - 1;
    size_t i = hash & mask;
    while (segment.slots[i].node != node) i = (i + 1) & mask;
    return i;
  }

  static void place(Segment& segment, Slot slot) {
    const size_t mask = segment.slots.size() - 1;
    size_t i = slot.hash & mask;
    while (segment.slots[i].node != kEmpty) i = (i + 1) & mask;
    segment.slots[i] = slot;
  }

  static void resize(Segment& segment, size_t room) {
    size_t size = kLeast;
    while (size < room) size *= 2;
    std::vector<Slot> old(size, Slot{0, kEmpty});
    old.swap(segment.slots);
    for (const Slot& slot : old)
      if (slot.node != kEmpty) place(segment, slot);
  }

  std::vector<Segment> segments_;
};

}  // namespace paceline
