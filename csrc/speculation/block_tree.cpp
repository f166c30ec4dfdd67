#include "block_tree.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <queue>
#include <utility>
#include <vector>

namespace paceline {
namespace {

constexpr int kLanes = 16;
constexpr int kBlock = 64;
constexpr float kNegligible = 20.0f;  // logits below the best

// Largest of `count` numbers; one that is not a number may be passed over.
float largest(const float* x, int count) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -INFINITY);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
  float top = -INFINITY;
  for (float lane : lanes) top = std::max(top, lane);
  for (; i < count; ++i) top = std::max(top, x[i]);
  return top;
}

// Ids of numbers that are within `margin` of the largest, ascending; of more than `most` those of the largest ones.
std::vector<int32_t> find_largest(const float* x, int count, int most, float margin) {
  std::vector<float> tops;
  float best = -INFINITY;
  for (int block = 0; block < count; block += kBlock) {
    tops.push_back(largest(x + block, std::min(kBlock, count - block)));
    best = std::max(best, tops.back());
  }
  float least = best - margin;
  // As many blocks as there may be ids have a number that is not below the lowest of their largest ones.
  if (static_cast<int>(tops.size()) > most) {
    std::vector<float> ranked = tops;
    std::nth_element(ranked.begin(), ranked.begin() + most - 1, ranked.end(), std::greater<float>());
    least = std::max(least, ranked[most - 1]);
  }
  std::vector<int32_t> found;
  for (int block = 0; block < count; block += kBlock) {
    if (!(tops[block / kBlock] >= least)) continue;
    for (int i = block; i < std::min(count, block + kBlock); ++i)
      if (x[i] >= least) found.push_back(i);
  }
  if (static_cast<int>(found.size()) <= most) return found;
  const auto larger = [&](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; };
  std::nth_element(found.begin(), found.begin() + most, found.end(), larger);
  found.resize(most);
  std::sort(found.begin(), found.end());
  return found;
}

float dot(const float* a, const float* b, int count) {
  float lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  float sum = 0.0f;
  for (float lane : lanes) sum += lane;
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

struct Child {
  int32_t token;
  float confidence;
};

float logit(float p) { return std::log(p) - std::log1p(-p); }

// A position: its candidates, and the speculator's own guess at its best one.
struct Position {
  const float* logits = nullptr;
  std::vector<int32_t> candidates;
  float survival = 0.0f;  // log-odds
  bool finite = false;

  Position(const BlockLogits& block, const MarkovTerm& markov, int row)
      : logits(block.data + static_cast<size_t>(row) * block.stride) {
    candidates = find_largest(logits, block.vocabulary, kMostCandidates, kCandidateMargin);
    // Their rows of the bias lie all over a matrix that the target's weights have driven out of the caches.
    for (int32_t id : candidates) markov.ask_for(id);
    survival = logits[block.vocabulary];
    finite = !candidates.empty() && std::isfinite(survival);
    for (int32_t id : candidates) finite &= std::isfinite(logits[id]);
  }

  // The likeliest tokens behind the token `before`, best first.
  void children(MarkovTerm& markov, int32_t before, std::vector<int32_t>& ids, std::vector<float>& scores,
                std::vector<Child>& found) const {
    static const std::vector<int32_t> nothing;
    const std::vector<int32_t>& followers = before < 0 ? nothing : markov.followers(before);
    ids.clear();
    std::set_union(candidates.begin(), candidates.end(), followers.begin(), followers.end(), std::back_inserter(ids));
    scores.clear();
    for (int32_t id : ids) {
      const float score = logits[id] + (before < 0 ? 0.0f : markov.bias(before, id));
      scores.push_back(score == score ? score : -INFINITY);
    }
    found.clear();
    const float top = *std::max_element(scores.begin(), scores.end());
    float sum = 0.0f;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] < top - kNegligible) continue;  // most followers of a token have no place here
      const float weight = std::exp(scores[i] - top);
      sum += weight;
      const auto better = [](const Child& a, const Child& b) { return a.confidence > b.confidence; };
      const Child child{ids[i], weight};
      found.insert(std::upper_bound(found.begin(), found.end(), child, better), child);
      if (found.size() > kMostChildren) found.pop_back();
    }
    const float best = std::min(1.0f / sum, 0.9999f);
    const float believed = 1.0f / (1.0f + std::exp(-(1.0f - kSurvivalShare) * logit(best) - kSurvivalShare * survival));
    for (Child& child : found) child.confidence *= (1.0f - believed) / (1.0f - best) / sum;
    // A sibling is no likelier than the best one, whatever that is believed to be.
    for (Child& child : found) child.confidence = std::min(child.confidence, believed);
    found.front().confidence = believed;
  }
};

// A node that may be taken, once its parent was.
struct Offer {
  float path;
  int order;  // of equally likely ones the first
  int depth;
  BlockNode node;

  bool operator<(const Offer& other) const { return path != other.path ? path < other.path : order > other.order; }
};

}  // namespace

MarkovTerm::MarkovTerm(std::vector<float> previous, std::vector<float> next, int rank)
    : previous_(std::move(previous)), next_(std::move(next)), rank_(rank), followers_(next_.size() / rank) {}

float MarkovTerm::bias(int32_t before, int32_t token) const {
  const size_t from = static_cast<size_t>(before) * rank_, to = static_cast<size_t>(token) * rank_;
  return dot(previous_.data() + from, next_.data() + to, rank_);
}

void MarkovTerm::ask_for(int32_t token) const {
  const float* next = next_.data() + static_cast<size_t>(token) * rank_;
  for (int i = 0; i < rank_; i += kLanes) __builtin_prefetch(next + i);
}

const std::vector<int32_t>& MarkovTerm::followers(int32_t before) {
  std::vector<int32_t>& found = followers_[before];
  if (found.empty()) {
    std::vector<float> biases(vocabulary());
    for (int32_t token = 0; token < vocabulary(); ++token) biases[token] = bias(before, token);
    found = find_largest(biases.data(), vocabulary(), kMostFollowers, INFINITY);
  }
  return found;
}

std::vector<BlockNode> grow_tree(const BlockLogits& logits, MarkovTerm& markov, int32_t before, int first, int rows,
                                 int most) {
  std::vector<BlockNode> tree;
  std::vector<Position> positions;
  for (int k = 0; k < rows; ++k) {
    positions.emplace_back(logits, markov, first + k);
    if (!positions.back().finite) {
      positions.pop_back();
      break;
    }
  }
  std::priority_queue<Offer> offers;
  std::vector<int32_t> ids;
  std::vector<float> scores;
  std::vector<Child> children;
  int order = 0;
  const auto offer = [&](int depth, int32_t token, int32_t parent, float path) {
    if (depth >= static_cast<int>(positions.size())) return;
    positions[depth].children(markov, token, ids, scores, children);
    for (const Child& child : children)
      if (path * child.confidence >= kLeastPath)
        offers.push({path * child.confidence, order++, depth, {child.token, parent, child.confidence}});
  };
  offer(0, before, -1, 1.0f);
  while (!offers.empty() && static_cast<int>(tree.size()) < most) {
    const Offer best = offers.top();
    offers.pop();
    tree.push_back(best.node);
    if (static_cast<int>(tree.size()) < most)
      offer(best.depth + 1, best.node.token, static_cast<int32_t>(tree.size()) - 1, best.path);
  }
  return tree;
}

}  // namespace paceline
