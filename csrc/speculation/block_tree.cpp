#include "block_tree.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <vector>

namespace paceline {
namespace {

constexpr int kLanes = 16;
constexpr int kBlock = 64;

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

// Ids whose logits are within the margin of the best, ascending; of more than the limit the likeliest.
std::vector<int32_t> find_candidates(const float* logits, int vocabulary) {
  std::vector<float> tops;
  float best = -INFINITY;
  for (int block = 0; block < vocabulary; block += kBlock) {
    tops.push_back(largest(logits + block, std::min(kBlock, vocabulary - block)));
    best = std::max(best, tops.back());
  }
  float least = best - kCandidateMargin;
  // As many blocks as there may be candidates have a logit that is not below the lowest of their best ones.
  if (tops.size() > kMostCandidates) {
    std::vector<float> ranked = tops;
    std::nth_element(ranked.begin(), ranked.begin() + kMostCandidates - 1, ranked.end(), std::greater<float>());
    least = std::max(least, ranked[kMostCandidates - 1]);
  }
  std::vector<int32_t> found;
  for (int block = 0; block < vocabulary; block += kBlock) {
    if (!(tops[block / kBlock] >= least)) continue;
    for (int i = block; i < std::min(vocabulary, block + kBlock); ++i)
      if (logits[i] >= least) found.push_back(i);
  }
  if (found.size() <= kMostCandidates) return found;
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::nth_element(found.begin(), found.begin() + kMostCandidates, found.end(), likelier);
  found.resize(kMostCandidates);
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
    candidates = find_candidates(logits, block.vocabulary);
    // Their rows of the bias lie all over a matrix that the target's weights have driven out of the caches.
    for (int32_t id : candidates) {
      const float* next = markov.next + static_cast<size_t>(id) * markov.rank;
      for (int i = 0; i < markov.rank; i += kLanes) __builtin_prefetch(next + i);
    }
    survival = logits[block.vocabulary];
    finite = !candidates.empty() && std::isfinite(survival);
    for (int32_t id : candidates) finite &= std::isfinite(logits[id]);
  }

  // The likeliest tokens behind the token `before`, best first.
  void children(const MarkovTerm& markov, int32_t before, std::vector<float>& scores, std::vector<Child>& found) const {
    const float* bias_of = before < 0 ? nullptr : markov.previous + static_cast<size_t>(before) * markov.rank;
    scores.clear();
    for (int32_t id : candidates) {
      const float* next = markov.next + static_cast<size_t>(id) * markov.rank;
      scores.push_back(logits[id] + (bias_of ? dot(bias_of, next, markov.rank) : 0.0f));
    }
    found.clear();
    const float top = *std::max_element(scores.begin(), scores.end());
    float sum = 0.0f;
    for (size_t i = 0; i < scores.size(); ++i) {
      const float weight = std::exp(scores[i] - top);
      sum += weight;
      const auto better = [](const Child& a, const Child& b) { return a.confidence > b.confidence; };
      const Child child{candidates[i], weight};
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

std::vector<BlockNode> grow_tree(const BlockLogits& logits, const MarkovTerm& markov, int32_t before, int first,
                                 int rows, int most) {
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
  std::vector<float> scores;
  std::vector<Child> children;
  int order = 0;
  const auto offer = [&](int depth, int32_t token, int32_t parent, float path) {
    if (depth >= static_cast<int>(positions.size())) return;
    positions[depth].children(markov, token, scores, children);
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
