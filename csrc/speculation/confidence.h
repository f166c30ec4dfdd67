#pragma once

#include <cstddef>
#include <cstdint>

namespace paceline {

// FIT
inline float confidence(uint32_t count, uint32_t total, size_t match, int place) {
  return (count + 0.5f) / (total + 1.5f);
}

}  // namespace paceline
