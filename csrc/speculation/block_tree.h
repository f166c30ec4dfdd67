// Makes a token tree of a block that was predicted in one pass. Every position has one distribution, whatever stands
// before it; a low-rank bias by the token before (a Markov term) is what tells siblings' children apart.
#pragma once

#include <cstdint>
#include <vector>

namespace paceline {

constexpr int kMostCandidates = 32;       // of a position
constexpr float kCandidateMargin = 8.0f;  // logits so far below a position's best are no candidates
constexpr int kMostChildren = 4;          // of a node
constexpr float kLeastPath = 0.02f;       // a node that is less likely than this, ancestors included, is left out
constexpr float kSurvivalShare = 0.25f;   // of the survival logit in what is believed of the best child

struct BlockLogits {
  const float* data;  // [rows][stride]: logits of the draft vocabulary, then the logit of survival
  int stride;
  int vocabulary;
};

struct MarkovTerm {
  const float* previous;  // [vocabulary][rank]
  const float* next;      // [vocabulary][rank]
  int rank;
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
// Of a node's children the tokens' probabilities are the softmax of logits and bias over the position's candidates. The
// survival logit is the speculator's own guess whether its best token is right: it has a say in what that is worth, and
// the siblings share the rest.
std::vector<BlockNode> grow_tree(const BlockLogits& logits, const MarkovTerm& markov, int32_t before, int first,
                                 int rows, int most);

}  // namespace paceline
