// Memory for weights and caches: 2 MiB aligned, huge pages asked for, zero until touched, freed as a whole.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace paceline {

class Arena {
 public:
  Arena() = default;
  ~Arena() {
    for (auto& [data, size] : regions_) munmap(data, size);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned; small pieces share regions of kRegion bytes.
  uint8_t* take(size_t bytes) {
    bytes = (bytes + 63) & ~size_t{63};
    if (bytes > left_) {
      const size_t region = bytes > kRegion ? (bytes + kHuge - 1) / kHuge * kHuge : kRegion;
      uint8_t* fresh = map(region);
      if (region - bytes < left_) return fresh;  // keep filling the region that has more room
      next_ = fresh;
      left_ = region;
    }
    uint8_t* out = next_;
    next_ += bytes;
    left_ -= bytes;
    return out;
  }

 private:
  static constexpr size_t kHuge = size_t{2} << 20;
  static constexpr size_t kRegion = size_t{16} << 20;

  uint8_t* map(size_t bytes) {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* raw = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (raw == MAP_FAILED) throw std::bad_alloc();
    regions_.emplace_back(raw, bytes + kHuge);
    const auto aligned = (reinterpret_cast<uintptr_t>(raw) + kHuge - 1) & ~(kHuge - 1);
    madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
    return reinterpret_cast<uint8_t*>(aligned);
  }

  std::vector<std::pair<void*, size_t>> regions_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace paceline
