#include "suffix_tree.h"

#include <algorithm>

namespace paceline {

namespace {

constexpr Suffix kNoSuffix{kNone, 0};

// Of two siblings, whether the first is the more frequent one.
bool precedes(const Node& a, const Node& b) { return a.count > b.count || (a.count == b.count && a.token < b.token); }

}  // namespace

// Texts

Index SuffixTree::add_root() {
  const Index root = create();
  at(root).parent = kNone;
  at(root).depth = 0;
  return root;
}

void SuffixTree::drop_root(Index root) { release(root); }

Index SuffixTree::open(Index root) {
  Index text;
  if (free_texts_.empty()) {
    text = static_cast<Index>(texts_.size());
    texts_.emplace_back();
  } else {
    text = free_texts_.back();
    free_texts_.pop_back();
  }
  texts_[text] = std::make_unique<Text>();
  texts_[text]->root = root;
  return text;
}

void SuffixTree::append(Index text, Token token) {
  Text& t = *texts_[text];
  t.tokens.push_back(token);
  t.places.push_back(kNone);
  t.links.emplace_back();
  const Index length = static_cast<Index>(t.tokens.size());
  const Index deepest = length > max_depth_ ? length - max_depth_ : 0;  // becomes max_depth long at most now
  if (length >= max_depth_ && deepest >= t.removed && deepest + 1 < length) {
    // From now on it rests for good: behind those that may still move.
    const Index i = t.places[deepest];
    leave({text, deepest});
    rest({text, deepest}, i);
  }
  t.active = std::max({t.active, deepest, t.removed});
  // From the longest to the shortest. Those that have a leaf of their own are the longest ones.
  for (Index start = t.active; start < length; ++start)
    if (advance({text, start}, token) && start == t.active) ++t.active;
}

void SuffixTree::close(Index text) {
  Text& t = *texts_[text];
  t.open = false;
  t.tokens.shrink_to_fit();
  t.places.shrink_to_fit();
  t.links.shrink_to_fit();
}

void SuffixTree::remove_first(Index text) {
  Text& t = *texts_[text];
  remove({text, t.removed});
  ++t.removed;
}

void SuffixTree::drop(Index text) {
  while (num_suffixes(text) > 0) remove_first(text);
  texts_[text].reset();
  free_texts_.push_back(text);
}

size_t SuffixTree::depth_of(Suffix s) const { return texts_[s.text]->tokens.size() - s.start; }

// Matches

size_t SuffixTree::longest_match(Index text) const {
  const Text& t = *texts_[text];
  const size_t length = t.tokens.size(), deepest = length >= max_depth_ ? length - max_depth_ + 1 : 0;
  return length - std::min(length, std::max<size_t>({t.active, t.removed, deepest}));
}

size_t SuffixTree::longest_continued_match(Index text) const {
  size_t m = longest_match(text);
  for (; m > 0; --m) {
    const Node& n = node(match(text, m));
    if ((!leaf(n) && m == n.depth) || label(n, m) >= 0) break;
  }
  return m;
}

Index SuffixTree::match(Index text, size_t m) const {
  const Text& t = *texts_[text];
  return t.places[t.tokens.size() - m];
}

Index SuffixTree::best_child(Index i) {
  Node& n = at(i);
  if (n.best == kNone) {
    n.rival = 0;
    n.best = n.first_child;
    for (Index c = node(n.best).next; c != kNone; c = node(c).next) {
      const bool wins = precedes(node(c), node(n.best));
      n.rival = std::max(n.rival, wins ? node(n.best).count : node(c).count);
      if (wins) n.best = c;
    }
  }
  return n.best;
}

void SuffixTree::prefetch_stage(int stage, Index text, Token next) const {
  const Text& t = *texts_[text];
  if (stage == 0) {
    prefetch(&t);
    return;
  }
  const size_t length = t.tokens.size(), deepest = length >= max_depth_ ? length - max_depth_ + 1 : 0;
  const size_t from = std::max<size_t>({t.active, t.removed, deepest});
  constexpr size_t kLine = 64 / sizeof(Index);
  for (size_t start = from; start < length; start += stage == 1 ? kLine : 1) {
    if (stage == 1) {
      prefetch(&t.places[start]);
      continue;
    }
    const Node& n = node(t.places[start]);
    if (stage == 2) {
      prefetch(&n);
    } else if (length - start >= n.depth) {
      prefetch(children_.first_slot(ChildTable::hash(t.places[start], next)));
    } else {
      prefetch(texts_[n.witness.text].get());
    }
  }
  if (stage == 3 && length > 0) prefetch(children_.first_slot(ChildTable::hash(t.root, next)));
}

void SuffixTree::prefetch_removal(Index text) const {
  constexpr size_t kAhead = 8;  // suffixes: their nodes first, half way there the nodes above
  const Text& t = *texts_[text];
  const size_t far = t.removed + kAhead, near = t.removed + kAhead / 2;
  if (far < t.places.size()) prefetch(&node(t.places[far]));
  if (near >= t.places.size()) return;
  const Node& n = node(t.places[near]);
  prefetch(&node(n.parent));
  prefetch(children_.first_slot(ChildTable::hash(n.parent, n.token)));
}

// Growth

// One step of a suffix along its text, whose last token is `token`. True if it has a leaf of its own now.
bool SuffixTree::advance(Suffix s, Token token) {
  const uint32_t depth = static_cast<uint32_t>(depth_of(s) - 1);  // before the step
  Index i = depth == 0 ? texts_[s.text]->root : place(s);
  if (depth < node(i).depth) {
    const Token expected = label(node(i), depth);
    if (expected == token) return leaf(node(i)) && node(i).witness == s;
    if (expected < 0) return take_over(i, s);
    leave(s);
    i = split(i, depth);
    grow_leaf(i, token, s);
    return true;
  }
  if (depth > 0) leave(s);
  const Index child = find_child(i, token);
  if (child == kNone) {
    grow_leaf(i, token, s);
    return true;
  }
  enter(i, child);
  rest(s, child);
  return false;
}

// A suffix goes past the end of a leaf: the leaf grows with it from now on, and the former witness follows.
bool SuffixTree::take_over(Index i, Suffix s) {
  const Suffix former = at(i).witness;
  at(i).witness = s;
  Text& t = *texts_[former.text];
  if (t.open) t.active = std::min(t.active, former.start);
  return true;
}

// Cuts the label of node `i`: gives the new node that ends at `depth`, whose only child is `i`. Suffixes that end above
// the cut stay with the upper part.
Index SuffixTree::split(Index i, uint32_t depth) {
  const Index upper = create();
  Node &u = at(upper), &n = at(i);
  u.token = n.token;
  u.depth = depth;
  u.count = n.count;
  u.witness = n.witness;
  replace_child(n.parent, i, upper);
  Suffix s = n.first;
  while (s.text != kNone && depth_of(s) < max_depth_) {
    const Suffix next = link(s).next;
    if (depth_of(s) <= depth) {
      leave(s);
      rest(s, upper);
      --n.count;
    }
    s = next;
  }
  --n.count;  // the suffix on whose behalf this is done: it has left, and takes another way from here
  n.token = label(n, depth);
  add_child(upper, i);
  u.continued = n.count;
  return upper;
}

void SuffixTree::grow_leaf(Index parent, Token token, Suffix s) {
  const Index child = create();
  Node& c = at(child);
  c.token = token;
  c.depth = max_depth_;
  c.witness = s;
  add_child(parent, child);
  enter(parent, child);
  rest(s, child);
}

// One more suffix goes on from `parent` into `child`.
void SuffixTree::enter(Index parent, Index child) {
  Node &p = at(parent), &c = at(child);
  ++p.continued;
  ++c.count;
  if (p.best == child) return;
  if (p.best == kNone || !precedes(c, node(p.best))) {
    p.rival = std::max(p.rival, c.count);
  } else {
    p.rival = std::max(p.rival, node(p.best).count);
    p.best = child;
  }
}

// Removal

void SuffixTree::remove(Suffix s) {
  Index i = place(s);
  leave(s);
  while (at(i).parent != kNone) {
    Node& n = at(i);
    const Index parent = n.parent;
    --n.count;
    --at(parent).continued;
    if (at(parent).best == i && n.count <= at(parent).rival) at(parent).best = kNone;
    if (n.count == 0) {
      remove_child(parent, i);
      release(i);
    } else if (!leaf(n) && node(n.first_child).next == kNone) {
      merge(i);
    } else if (n.witness == s) {
      find_witness(i);
    }
    i = parent;
  }
}

// Node `i` has one child left: their labels become one, and the child stands for both.
void SuffixTree::merge(Index i) {
  Node& n = at(i);
  const Index child = n.first_child;
  Node& c = at(child);
  children_.erase(ChildTable::hash(i, c.token), child);
  c.token = n.token;
  c.count = n.count;
  replace_child(n.parent, i, child);
  while (n.last.text != kNone) {
    const Suffix s = n.last;
    leave(s);
    rest(s, child);
  }
  release(i);
}

// Another witness for a node that lost its own.
void SuffixTree::find_witness(Index i) {
  Node& n = at(i);
  if (!leaf(n)) {
    n.witness = node(n.first_child).witness;
    return;
  }
  n.witness = n.last;  // if any reaches max_depth, the last does
  if (depth_of(n.last) >= max_depth_) return;
  for (Suffix s = n.first; s.text != kNone; s = link(s).next)
    if (depth_of(s) > depth_of(n.witness)) n.witness = s;
}

// Nodes and their links

Index SuffixTree::find_child(Index parent, Token token) const {
  return children_.find(ChildTable::hash(parent, token), [&](Index c) {
    const Node& n = node(c);
    return n.parent == parent && n.token == token;
  });
}

Index SuffixTree::create() {
  Index i;
  if (free_nodes_.empty()) {
    i = next_node_++;
    if (i % kPage == 0) pages_.emplace_back(new Node[kPage]);
  } else {
    i = free_nodes_.back();
    free_nodes_.pop_back();
  }
  ++num_nodes_;
  Node& n = at(i);
  n.first_child = n.next = n.previous = n.best = kNone;
  n.count = n.continued = n.rival = 0;
  n.first = n.last = n.witness = kNoSuffix;
  return i;
}

void SuffixTree::release(Index i) {
  free_nodes_.push_back(i);
  if (--num_nodes_ > 0) return;
  decltype(pages_)().swap(pages_);
  decltype(free_nodes_)().swap(free_nodes_);
  next_node_ = 0;
}

void SuffixTree::add_child(Index parent, Index child) {
  Node &p = at(parent), &c = at(child);
  c.parent = parent;
  c.previous = kNone;
  c.next = p.first_child;
  if (c.next != kNone)
    at(c.next).previous = child;
  else
    p.best = child;
  p.first_child = child;
  children_.insert(ChildTable::hash(parent, c.token), child);
}

void SuffixTree::remove_child(Index parent, Index child) {
  Node &p = at(parent), &c = at(child);
  (c.previous == kNone ? p.first_child : at(c.previous).next) = c.next;
  if (c.next != kNone) at(c.next).previous = c.previous;
  children_.erase(ChildTable::hash(parent, c.token), child);
}

// `by` takes the place of `child`; both begin with the same token.
void SuffixTree::replace_child(Index parent, Index child, Index by) {
  Node &p = at(parent), &c = at(child), &b = at(by);
  b.parent = parent;
  b.next = c.next;
  b.previous = c.previous;
  (b.previous == kNone ? p.first_child : at(b.previous).next) = by;
  if (b.next != kNone) at(b.next).previous = by;
  if (p.best == child) p.best = by;
  children_.replace(ChildTable::hash(parent, b.token), child, by);
}

// Suffixes at max_depth are kept behind the others, so that a split need not look at them.
void SuffixTree::rest(Suffix s, Index i) {
  Node& n = at(i);
  Link& l = link(s);
  place(s) = i;
  if (depth_of(s) >= max_depth_) {
    l = {kNoSuffix, n.last};
    (n.last.text == kNone ? n.first : link(n.last).next) = s;
    n.last = s;
  } else {
    l = {n.first, kNoSuffix};
    (n.first.text == kNone ? n.last : link(n.first).previous) = s;
    n.first = s;
  }
}

void SuffixTree::leave(Suffix s) {
  const Link& l = link(s);
  Node& n = at(place(s));
  (l.previous.text == kNone ? n.first : link(l.previous).next) = l.next;
  (l.next.text == kNone ? n.last : link(l.next).previous) = l.previous;
}

size_t SuffixTree::bytes() const {
  size_t sum = pages_.size() * kPage * sizeof(Node) + free_nodes_.capacity() * sizeof(Index) + children_.bytes();
  for (const auto& t : texts_) {
    if (!t) continue;
    sum += t->tokens.capacity() * sizeof(Token) + t->places.capacity() * sizeof(Index);
    sum += t->links.capacity() * sizeof(Link) + sizeof(Text);
  }
  return sum + texts_.capacity() * sizeof(texts_[0]);
}

}  // namespace paceline
