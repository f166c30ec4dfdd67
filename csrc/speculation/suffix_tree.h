// Texts, and how often each of their substrings of up to `max_depth` tokens occurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "child_table.h"

namespace paceline {

using Token = int32_t;
using Index = uint32_t;
constexpr Index kNone = 0xFFFFFFFF;

// Nothing of the trees is in the processor's caches when a step begins: the model's weights went through them. What a
// step will read is therefore asked for early, for all sequences at once.
inline void prefetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address);
#else
  (void)address;
#endif
}

// The suffix of a text that begins at token `start`.
struct Suffix {
  Index text;  // kNone: no suffix
  Index start;
  bool operator==(const Suffix& other) const { return text == other.text && start == other.start; }
};

// A node of a path-compressed tree. The label that leads to it is read from a text: the witness passes through it.
struct alignas(64) Node {
  Token token;             // the first of its label
  Index parent;            // kNone: a root
  Index first_child;       // kNone: a leaf
  Index next, previous;    // siblings
  Index best;              // the child with the largest count (the lowest token on ties); kNone: not known now
  uint32_t rival;          // no other child has a larger count than this
  uint32_t count;          // suffixes that reach the first token of the label
  uint32_t continued;      // those that reach a child
  uint32_t depth;          // tokens from the root to its end; a leaf's label ends where its witness does
  Suffix witness;
  Suffix first, last;      // the suffixes that rest here: they end in the label, or at its end
};

// A forest of suffix trees, bounded in depth, with counts. Each text belongs to one root, grows at its end and can lose
// suffixes from its front. Every suffix follows its text down the tree to where it ends, or to `max_depth`, and rests
// in the node there; hence the matches of a text's last tokens are known without a search: they are where its last
// suffixes rest. The tree is at all times the one that its suffixes define, in whatever order they came and went:
// a node stands where paths part, and nowhere else.
//
// Cost of a token: the suffixes that also occur elsewhere take one step each; those that do not have a leaf of their
// own, which grows with the text.
class SuffixTree {
 public:
  // `segments`: of the child table, a power of two; many for a large tree that must not stall, 1 for a small one.
  SuffixTree(uint32_t max_depth, size_t segments) : max_depth_(max_depth), children_(segments) {}
  SuffixTree(const SuffixTree&) = delete;
  SuffixTree& operator=(const SuffixTree&) = delete;

  Index add_root();
  void drop_root(Index root);  // no text of it is left

  Index open(Index root);  // a new text, empty
  void append(Index text, Token token);
  void close(Index text);  // it grows no more
  void remove_first(Index text);  // its first suffix that is still in the tree
  void drop(Index text);  // what is left of it
  void prefetch_removal(Index text) const;  // what removing the next few suffixes will read

  size_t length(Index text) const { return texts_[text]->tokens.size(); }
  size_t num_suffixes(Index text) const { return texts_[text]->tokens.size() - texts_[text]->removed; }

  // Matches of the text's last tokens: of `m` tokens for every m from 1 to this number (0: there is none).
  size_t longest_match(Index text) const;
  // The same for matches behind which a text goes on. Which of two texts that end alike matches the other depends on how
  // they came; this does not.
  size_t longest_continued_match(Index text) const;
  // The node in which the suffix of the last `m` tokens rests.
  Index match(Index text, size_t m) const;

  const Node& node(Index i) const { return pages_[i / kPage][i % kPage]; }
  // The child with the largest count, the lowest token on ties, of a node that has children.
  Index best_child(Index i);
  // The child whose label begins with `token`, or kNone.
  Index find_child(Index parent, Token token) const;
  // Token number `depth` of the paths through leaf or label `i`, or -1 behind the end of its witness.
  Token label(const Node& node, size_t depth) const {
    const std::vector<Token>& tokens = texts_[node.witness.text]->tokens;
    const size_t at = node.witness.start + depth;
    return at < tokens.size() ? tokens[at] : -1;
  }

  // Asks for the memory that `append(text, next)` will read. Each stage reads what the one before asked for.
  static constexpr int kPrefetchStages = 4;
  void prefetch_stage(int stage, Index text, Token next) const;

  size_t num_nodes() const { return num_nodes_; }
  size_t bytes() const;

 private:
  static constexpr size_t kPage = 1024;

  struct Link {
    Suffix next, previous;
  };
  struct Text {
    Index root;
    bool open = true;
    Index removed = 0;  // leading suffixes that are not in the tree any more
    Index active = 0;  // suffixes before this one either are at max_depth or grow with a leaf of their own
    std::vector<Token> tokens;
    std::vector<Index> places;  // for each suffix, the node in which it rests
    std::vector<Link> links;  // and the others that rest there
  };

  Node& at(Index i) { return pages_[i / kPage][i % kPage]; }
  Index& place(Suffix s) { return texts_[s.text]->places[s.start]; }
  Link& link(Suffix s) { return texts_[s.text]->links[s.start]; }
  size_t depth_of(Suffix s) const;
  bool leaf(const Node& node) const { return node.first_child == kNone; }

  bool advance(Suffix s, Token token);
  bool take_over(Index leaf, Suffix s);
  Index split(Index i, uint32_t depth);
  void grow_leaf(Index parent, Token token, Suffix s);
  void enter(Index parent, Index child);
  void remove(Suffix s);
  void merge(Index i);
  void find_witness(Index i);

  Index create();
  void release(Index i);
  void add_child(Index parent, Index child);
  void remove_child(Index parent, Index child);
  void replace_child(Index parent, Index child, Index by);
  void rest(Suffix s, Index i);
  void leave(Suffix s);

  uint32_t max_depth_;
  ChildTable children_;
  std::vector<std::unique_ptr<Node[]>> pages_;
  std::vector<Index> free_nodes_;
  size_t num_nodes_ = 0;
  Index next_node_ = 0;
  std::vector<std::unique_ptr<Text>> texts_;
  std::vector<Index> free_texts_;
};

}  // namespace paceline
