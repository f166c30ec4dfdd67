#include "suffix_index.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace paceline {

int SuffixIndex::open(int adapter, int sibling, int64_t first, int64_t recent_first, int64_t output_first) {
  Sequence s;
  if (sibling >= 0) {
    s.tree = get(sibling).tree;
  } else {
    s.tree = std::make_shared<SuffixTree>(limits_.max_depth, 1);
    s.tree->add_root();
  }
  s.text = s.tree->open(0);
  s.adapter = adapter;
  s.position = first;
  s.recent_first = recent_first;
  s.output_first = output_first;
  int number;
  if (free_.empty()) {
    number = static_cast<int>(sequences_.size());
    sequences_.emplace_back();
  } else {
    number = free_.back();
    free_.pop_back();
  }
  if (limits_.max_cached_tokens > 0) {
    Adapter& a = adapters_[adapter];
    if (a.texts++ == 0) a.root = recent_.add_root();
    s.recent = recent_.open(a.root);
    open_.push_back(number);
  }
  sequences_[number] = std::move(s);
  return number;
}

void SuffixIndex::extend(int sequence, const Token* tokens, size_t count) {
  Sequence& s = get(sequence);
  for (size_t i = 0; i < count; ++i, ++s.position) {
    if (tokens[i] < 0) throw std::invalid_argument("token ids must not be negative, got " + std::to_string(tokens[i]));
    s.tree->append(s.text, tokens[i]);
    if (s.recent != kNone && s.position >= s.recent_first) append_recent(s, tokens[i]);
  }
}

void SuffixIndex::prefetch_step(const std::vector<int>& sequences, const std::vector<Token>& next) {
  for (int stage = 0; stage < SuffixTree::kPrefetchStages; ++stage)
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = get(sequences[i]);
      s.tree->prefetch_stage(stage, s.text, next[i]);
      if (s.recent != kNone) recent_.prefetch_stage(stage, s.recent, next[i]);
    }
}

void SuffixIndex::close(int sequence) {
  Sequence& s = get(sequence);
  if (s.recent != kNone) {
    open_.erase(std::find(open_.begin(), open_.end(), sequence));
    if (s.position > s.output_first && recent_.num_suffixes(s.recent) > 0) {
      recent_.close(s.recent);
      closed_.push_back({s.recent, s.adapter});
    } else {
      num_cached_ -= recent_.num_suffixes(s.recent);
      forget_recent(s.recent, s.adapter);
    }
  }
  s.tree->close(s.text);
  s = Sequence{};
  free_.push_back(sequence);
}

SuffixIndex::Sequence& SuffixIndex::get(int sequence) {
  if (sequence < 0 || static_cast<size_t>(sequence) >= sequences_.size() || !sequences_[sequence].tree)
    throw std::out_of_range("there is no sequence " + std::to_string(sequence));
  return sequences_[sequence];
}

// Recent outputs

void SuffixIndex::append_recent(Sequence& s, Token token) {
  recent_.append(s.recent, token);
  ++num_cached_;
  while (num_cached_ > limits_.max_cached_tokens) make_room();
}

// Takes out one token: of the output that ended first, or, if none has ended, of the one that began first. One token
// for one token, so that no step pays for a whole output.
void SuffixIndex::make_room() {
  if (closed_.empty()) {
    for (int number : open_) {
      const Index text = sequences_[number].recent;
      if (recent_.num_suffixes(text) == 0) continue;
      recent_.remove_first(text);
      break;
    }
  } else {
    const Closed oldest = closed_.front();
    recent_.prefetch_removal(oldest.text);
    recent_.remove_first(oldest.text);
    if (recent_.num_suffixes(oldest.text) == 0) {
      closed_.pop_front();
      forget_recent(oldest.text, oldest.adapter);
    }
  }
  --num_cached_;
}

void SuffixIndex::forget_recent(Index text, int adapter) {
  recent_.drop(text);
  const auto a = adapters_.find(adapter);
  if (--a->second.texts > 0) return;
  recent_.drop_root(a->second.root);
  adapters_.erase(a);
}

// Drafts

const SuffixDraft& SuffixIndex::propose(int sequence, int max_tokens, float first, float other) {
  const Sequence& s = get(sequence);
  size_t own = s.tree->longest_continued_match(s.text);
  size_t recent = s.recent == kNone ? 0 : recent_.longest_continued_match(s.recent);
  const float longest = static_cast<float>(std::max(own, recent));
  const int depth = static_cast<int>(std::min<float>(limits_.max_factor * longest, kMaxDraft));
  growth_.clear();
  while (own > 0 || recent > 0) {  // matches of half the length say nearly all that those between them do
    if (own >= recent) {
      growth_.add_match(s.tree.get(), s.tree->match(s.text, own), own, false);
      own -= std::max<size_t>(1, own / 2);
    } else {
      growth_.add_match(&recent_, recent_.match(s.recent, recent), recent, true);
      recent -= std::max<size_t>(1, recent / 2);
    }
  }
  return growth_.grow({std::min(max_tokens, kMaxDraft), depth, first, other});
}

size_t SuffixIndex::bytes() const {
  size_t sum = recent_.bytes();
  for (const Sequence& s : sequences_)
    if (s.tree) sum += s.tree->bytes() / std::max<long>(1, s.tree.use_count());
  return sum;
}

}  // namespace paceline
