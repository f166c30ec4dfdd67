// Chooses the draft tokens of blocks that were predicted in one pass: the likeliest of each position, where a low-rank
// bias by the token before (a Markov term) decides among those that are close to the best.
#pragma once

#include <cstdint>

namespace paceline {

constexpr int kMostCandidates = 64;      // of a position
constexpr float kCandidateMargin = 8.0f;  // logits so far below a position's best are no candidates

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

// Of `rows` consecutive rows, those of one block behind the known token `before` (an id of the draft vocabulary, -1:
// none), the chosen ids (the lowest of equal ones) and the probability that each is accepted when those before it were.
// Ids from the first row on that is not finite: -1.
void choose_block(const BlockLogits& logits, const MarkovTerm& markov, int32_t before, int first, int rows,
                  int32_t* chosen, float* survival);

}  // namespace paceline
