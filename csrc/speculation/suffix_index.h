// Drafts from what sequences have said so far: their own text, and recent outputs for the same adapter.
//
// The trees are those of SuffixDecoding (Oliaro et al., NeurIPS 2025). Where it takes the most frequent continuation of
// the one match that scores best, a draft here comes from matches of all lengths in both trees (suffix_draft.h).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "suffix_draft.h"
#include "suffix_tree.h"

namespace paceline {

struct SuffixLimits {
  uint32_t max_depth;
  uint64_t max_cached_tokens;  // of recent outputs, over all adapters
  float max_factor;  // length of a draft's paths by tokens of the longest match
};

class SuffixIndex {
 public:
  explicit SuffixIndex(const SuffixLimits& limits) : limits_(limits), recent_(limits.max_depth, kSegments) {}
  SuffixIndex(const SuffixIndex&) = delete;
  SuffixIndex& operator=(const SuffixIndex&) = delete;

  // A new sequence. It will be fed from position `first` on: 0, or later where `sibling` (-1: none), a sequence of the
  // same prompt, holds the tokens before. Recent outputs of `adapter` get its tokens from position `recent_first` on;
  // output begins at `output_first`.
  int open(int adapter, int sibling, int64_t first, int64_t recent_first, int64_t output_first);
  void extend(int sequence, const Token* tokens, size_t count);
  // To be called before sequences are fed; `next[i]` is the first token that sequence `i` will get.
  void prefetch_step(const std::vector<int>& sequences, const std::vector<Token>& next);
  // The sequence ended. Its output stays among the recent ones until it is the oldest.
  void close(int sequence);
  // At most `max_tokens` (and kMaxDraft) tokens to follow what the sequence was fed; may be none. `first` and `other`:
  // see DraftLimits.
  const SuffixDraft& propose(int sequence, int max_tokens, float first, float other);

  uint64_t num_cached() const { return num_cached_; }
  size_t num_sequences() const { return sequences_.size() - free_.size(); }
  size_t bytes() const;

 private:
  static constexpr size_t kSegments = 256;

  struct Sequence {
    std::shared_ptr<SuffixTree> tree;  // of the request
    Index text = kNone;
    int adapter = 0;
    Index recent = kNone;  // its text among the recent outputs
    int64_t position = 0, recent_first = 0, output_first = 0;
  };
  struct Adapter {
    Index root = kNone;
    size_t texts = 0;
  };
  struct Closed {
    Index text;
    int adapter;
  };

  Sequence& get(int sequence);
  void append_recent(Sequence& s, Token token);
  void make_room();
  void forget_recent(Index text, int adapter);

  SuffixLimits limits_;
  SuffixTree recent_;
  std::unordered_map<int, Adapter> adapters_;
  std::deque<Closed> closed_;  // oldest first
  std::deque<int> open_;  // sequences that are not closed, oldest first
  uint64_t num_cached_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<int> free_;
  DraftGrowth growth_;
};

}  // namespace paceline
