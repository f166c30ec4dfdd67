// Makes a token tree of a block that was predicted in one pass. Every position has one distribution, whatever stands
// before it; a low-rank bias by the token before (a Markov term) is what tells siblings' children apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace paceline {

constexpr int kMostCandidates = 32;       // of a position, before the Markov term
constexpr int kMostFollowers = 16;        // of a token
constexpr float kCandidateMargin = 8.0f;  // logits so far below a position's best are no candidates
constexpr int kMostChildren = 4;          // of a node
constexpr float kLeastPath = 0.02f;       // a node that is less likely than this, ancestors included, is left out
constexpr float kSurvivalShare = 0.25f;   // of the survival logit in what is believed of the best child

struct BlockLogits {
  const float* data;  // [rows][stride]: logits of the draft vocabulary, then the logit of survival
  int stride;
  int vocabulary;
};

// The bias of a token behind another: previous[other] . next[token].
class MarkovTerm {
 public:
  MarkovTerm(std::vector<float> previous, std::vector<float> next, int rank);  // [vocabulary][rank] each

  int vocabulary() const { return static_cast<int>(followers_.size()); }
  std::size_t bytes() const { return (previous_.size() + next_.size()) * sizeof(float); }
  float bias(int32_t before, int32_t token) const;
  void ask_for(int32_t token) const;  // the token's bias will be asked for soon

  // Tokens that get the largest bias behind `before`, ascending. Found when first asked for, which passes over `next`.
  const std::vector<int32_t>& followers(int32_t before);

 private:
  std::vector<float> previous_, next_;
  int rank_;
  std::vector<std::vector<int32_t>> followers_;
};

struct BlockNode {
  int32_t token;     // an id of the draft vocabulary
  int32_t parent;    // place of a node before it, -1: the known token
  float confidence;  // that it is accepted when its parent was
};

// The at most `most` likeliest nodes of a tree behind the known token `before` (an id of the draft vocabulary, -1:
// none), whose depth `k` is predicted by row `first + k` of `rows` consecutive ones: likeliest paths first, parents
// before children, of equally likely tokens the lowest. Nothing grows from the first row on that is not finite.
//
// Of a node's children the tokens' probabilities are the softmax of logits and bias over the position's candidates and
// the node's followers: what nearly always stands behind a token need not look likely at its position. The survival
// logit is the speculator's own guess whether its best token is right: it has a say in what that is worth, and the
// siblings share the rest.
std::vector<BlockNode> grow_tree(const BlockLogits& logits, MarkovTerm& markov, int32_t before, int first, int rows,
                                 int most);

}  // namespace paceline
