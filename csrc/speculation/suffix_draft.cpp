#include "suffix_draft.h"

#include <algorithm>
#include <iterator>

namespace paceline {

namespace {

// What an unseen continuation counts beside the occurrences of a match, and what an occurrence in another request's
// output counts. Fitted with kOdds to 42,000 positions of answers of SmolLM2-135M-Instruct, greedy and sampled
// (docs/decisions/0007): log-loss of the first token 0.408.
constexpr float kUnseen = 2.0f, kRecent = 0.5f;
// By how much the odds of that estimate are to be changed, by the depth of the likeliest child in the draft: that its
// ancestors are right says that the text repeats, which does not help its siblings (they have the first factor). At
// most 1: so the probabilities of siblings still have a sum of at most 1.
constexpr float kOdds[] = {0.57f, 0.72f, 0.82f, 0.90f, 0.97f, 1.0f};

constexpr float kNegligible = 0.01f;  // share that the longer matches leave to the shorter ones
constexpr int kWays = 4;  // most children of a token: more are never likely enough

float confidence(float probability, int depth) {
  const float odds = kOdds[std::min<size_t>(depth, std::size(kOdds) - 1)];
  return odds * probability / (1 - probability + odds * probability);
}

bool single_way(const Node& n, uint32_t depth) { return n.first_child == kNone || depth < n.depth; }

}  // namespace

void DraftGrowth::clear() { cursors_.clear(); }

void DraftGrowth::add_match(SuffixTree* tree, Index node, size_t match, bool recent) {
  // The text's own suffix is one of those that reach this label, but nothing follows it.
  const uint32_t count = tree->node(node).count - 1;
  cursors_.push_back({tree, node, static_cast<uint32_t>(match), count, recent});
}

const SuffixDraft& DraftGrowth::grow(const DraftLimits& limits) {
  draft_.size = 0;
  draft_.chain = true;
  leaves_.clear();
  num_leaves_ = 0;
  if (limits.depth < 1) return draft_;
  const Range matches{0, cursors_.size()};
  find_ways(matches);
  add_leaves(-1, 0, 1.0f, limits);
  while (!leaves_.empty() && draft_.size < limits.tokens) {
    std::pop_heap(leaves_.begin(), leaves_.end());
    const Leaf leaf = leaves_.back();
    leaves_.pop_back();
    const int at = draft_.size++;
    draft_.tokens[at] = leaf.token;
    draft_.parents[at] = leaf.parent;
    draft_.confidence[at] = leaf.confidence;
    draft_.chain = draft_.chain && leaf.parent == at - 1;
    if (leaf.depth + 1 >= limits.depth || draft_.size == limits.tokens) continue;
    of_token_[at] = follow(leaf.parent < 0 ? matches : of_token_[leaf.parent], leaf.token);
    find_ways(of_token_[at]);
    add_leaves(at, leaf.depth + 1, leaf.path, limits);
  }
  return draft_;
}

// Those of the cursors that go on with `token`, one token further.
DraftGrowth::Range DraftGrowth::follow(Range cursors, Token token) {
  const size_t begin = cursors_.size();
  for (size_t i = cursors.begin; i < cursors.end; ++i) {
    Cursor c = cursors_[i];
    const Node& n = c.tree->node(c.node);
    if (single_way(n, c.depth)) {
      if (c.tree->label(n, c.depth) != token) continue;
    } else {
      c.node = c.tree->find_child(c.node, token);
      if (c.node == kNone) continue;
      c.count = c.tree->node(c.node).count;
    }
    ++c.depth;
    cursors_.push_back(c);
  }
  return {begin, cursors_.size()};
}

// The continuations and their probabilities.
void DraftGrowth::find_ways(Range cursors) {
  ways_.clear();
  float open = 1;  // what is left to this match and shorter ones
  for (size_t i = cursors.begin; i < cursors.end && open > kNegligible; ++i) {
    const Cursor& c = cursors_[i];
    SuffixTree& tree = *c.tree;
    const Node& n = tree.node(c.node);
    const bool single = single_way(n, c.depth);
    const Token next = single ? tree.label(n, c.depth) : -1;
    const uint32_t total = single ? (next < 0 ? 0 : c.count) : n.continued;
    if (total == 0) continue;
    const float weight = c.recent ? kRecent : 1.0f;
    const float whole = weight * static_cast<float>(total) + kUnseen;
    const float one = open * weight / whole;  // share of an occurrence
    if (single) {
      count_way(next, one * static_cast<float>(total));
    } else if (total <= kManyContinuations) {
      for (Index k = n.first_child; k != kNone; k = tree.node(k).next)
        count_way(tree.node(k).token, one * static_cast<float>(tree.node(k).count));
    } else {
      const Index best = tree.best_child(c.node);
      for (Way& way : ways_) {
        const Index k = way.token == tree.node(best).token ? kNone : tree.find_child(c.node, way.token);
        if (k != kNone) way.probability += one * static_cast<float>(tree.node(k).count);
      }
      count_way(tree.node(best).token, one * static_cast<float>(tree.node(best).count));
    }
    open *= kUnseen / whole;
  }
}

void DraftGrowth::count_way(Token token, float share) {
  for (Way& way : ways_)
    if (way.token == token) {
      way.probability += share;
      return;
    }
  ways_.push_back({token, share});
}

void DraftGrowth::add_leaves(int parent, int depth, float path, const DraftLimits& limits) {
  const auto precedes = [](const Way& a, const Way& b) {
    return a.probability > b.probability || (a.probability == b.probability && a.token < b.token);
  };
  const size_t count = std::min<size_t>(kWays, ways_.size());
  std::partial_sort(ways_.begin(), ways_.begin() + count, ways_.end(), precedes);
  for (size_t i = 0; i < count; ++i) {
    const float sure = confidence(ways_[i].probability, i == 0 ? depth : 0);
    if (path * sure < (i == 0 ? limits.first : limits.other)) return;
    leaves_.push_back({path * sure, sure, num_leaves_++, ways_[i].token, parent, depth});
    std::push_heap(leaves_.begin(), leaves_.end());
  }
}

}  // namespace paceline
