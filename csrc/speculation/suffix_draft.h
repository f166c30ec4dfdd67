// One draft: the likeliest continuations of a text by all that its matches say, a chain or a tree.
#pragma once

#include <cstdint>
#include <vector>

#include "suffix_tree.h"

namespace paceline {

constexpr int kMaxDraft = 63;  // with the last known token: the rows that a token tree can have
constexpr uint32_t kManyContinuations = 64;  // of a match: then its rare ones are not looked for

// Which tokens are worth proposing, by the estimated probability that they and their ancestors are right.
struct DraftLimits {
  int tokens;
  int depth;
  float first;  // at least, of the likeliest token behind another
  float other;  // and of its siblings
};

struct SuffixDraft {
  int size = 0;
  bool chain = true;
  Token tokens[kMaxDraft];
  int parents[kMaxDraft];  // before their children; -1: the text's last token
  float confidence[kMaxDraft];  // that a token is right if its ancestors are; of siblings, the sum is at most 1
};

// A continuation's probability is estimated by going through the matches of the text's last tokens from the longest to
// the shortest: each takes a share of what the longer ones left open, the greater the more often it occurred (an
// interpolation with back-off, as in PPM models). The tree then grows by its likeliest token until nothing that is
// left is worth a row (best first).
class DraftGrowth {
 public:
  void clear();
  // The text's last `match` tokens stand in `tree` before: in its own text or in `recent` outputs. From the longest
  // match to the shortest, of equal ones the own text's first.
  void add_match(SuffixTree* tree, Index node, size_t match, bool recent);
  // The likeliest continuations of the matches.
  const SuffixDraft& grow(const DraftLimits& limits);

 private:
  // A place in a tree, `count` occurrences of the text there go on.
  struct Cursor {
    SuffixTree* tree;
    Index node;
    uint32_t depth;
    uint32_t count;
    bool recent;
  };
  struct Way {
    Token token;
    float probability;
  };
  struct Leaf {  // that the draft may grow by
    float path;  // probability of its ancestors and itself
    float confidence;
    int order;  // in which they were found
    Token token;
    int parent;
    int depth;
    // For a heap with the likeliest leaf on top, the first of equally likely ones.
    bool operator<(const Leaf& other) const {
      return path < other.path || (path == other.path && order > other.order);
    }
  };
  struct Range {
    size_t begin, end;
  };

  Range follow(Range cursors, Token token);
  void find_ways(Range cursors);
  void count_way(Token token, float share);
  void add_leaves(int parent, int depth, float path, const DraftLimits& limits);

  SuffixDraft draft_;
  std::vector<Cursor> cursors_;  // of the text, then of each token in the draft
  Range of_token_[kMaxDraft];
  std::vector<Way> ways_;
  std::vector<Leaf> leaves_;  // a heap
  int num_leaves_ = 0;  // found so far
};

}  // namespace paceline
