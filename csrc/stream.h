// A buffer laid out like the weights (huge pages) and a plain read of it by the team: the floor of a decode step.
#pragma once

#include "arena.h"
#include "team.h"

namespace paceline {

class StreamBuffer {
 public:
  explicit StreamBuffer(size_t bytes);
  uint64_t read(Team& team);  // a sum over the bytes, so that no compiler skips them
  size_t bytes() const { return bytes_; }

 private:
  Arena arena_;
  size_t bytes_;
  uint8_t* data_;
};

}  // namespace paceline
