#include "block_choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace paceline {
namespace {

constexpr int kLanes = 16;

// Largest number; one that is not a number may be passed over.
float largest(const float* x, int count) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -INFINITY);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
  float top = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) top = std::max(top, x[i]);
  return top;
}

// Ids whose logits are within the margin of the best, ascending; of more than the limit the likeliest.
void find_candidates(const float* logits, int vocabulary, std::vector<int32_t>& found) {
  const float least = largest(logits, vocabulary) - kCandidateMargin;
  found.clear();
  for (int block = 0; block < vocabulary; block += kLanes) {
    const int end = std::min(vocabulary, block + kLanes);
    bool any = false;
    for (int i = block; i < end; ++i) any |= logits[i] >= least;
    if (!any) continue;
    for (int i = block; i < end; ++i)
      if (logits[i] >= least) found.push_back(i);
  }
  if (found.size() <= kMostCandidates) return;
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::nth_element(found.begin(), found.begin() + kMostCandidates, found.end(), likelier);
  found.resize(kMostCandidates);
  std::sort(found.begin(), found.end());
}

float dot(const float* a, const float* b, int count) {
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void choose_block(const BlockLogits& logits, const MarkovTerm& markov, int32_t before, int first, int rows,
                  int32_t* chosen, float* survival) {
  std::vector<int32_t> candidates;
  std::fill_n(chosen, rows, -1);
  std::fill_n(survival, rows, 0.0f);
  for (int k = 0; k < rows; ++k) {
    const float* row = logits.data + static_cast<size_t>(first + k) * logits.stride;
    find_candidates(row, logits.vocabulary, candidates);
    float best = -INFINITY;
    const float* bias_of = before < 0 ? nullptr : markov.previous + static_cast<size_t>(before) * markov.rank;
    for (int32_t id : candidates) {
      const float* next = markov.next + static_cast<size_t>(id) * markov.rank;
      const float bias = bias_of ? dot(bias_of, next, markov.rank) : 0.0f;
      if (row[id] + bias > best) {
        best = row[id] + bias;
        chosen[k] = id;
      }
    }
    if (!std::isfinite(best)) {
      chosen[k] = -1;
      return;
    }
    before = chosen[k];
    survival[k] = 1.0f / (1.0f + std::exp(-row[logits.vocabulary]));
  }
}

}  // namespace paceline
