// The native module `paceline._suffix`: what drafters do outside of a model, one call a step for all sequences.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "block_tree.h"
#include "suffix_index.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace paceline;

namespace {

SuffixLimits limits(int max_depth, int64_t max_cached_tokens, float max_factor) {
  if (max_depth < 1) throw std::invalid_argument("max_depth must be at least 1, got " + std::to_string(max_depth));
  if (max_cached_tokens < 0)
    throw std::invalid_argument("max_cached_tokens must be at least 0, got " + std::to_string(max_cached_tokens));
  return {static_cast<uint32_t>(max_depth), static_cast<uint64_t>(max_cached_tokens), max_factor};
}

template <class T, class Make>
nb::object tuple_of(const T* values, int count, Make make) {
  nb::object out = nb::steal(PyTuple_New(count));
  for (int i = 0; i < count; ++i) PyTuple_SET_ITEM(out.ptr(), i, make(values[i]));
  return out;
}

nb::object draft_of(const SuffixDraft& draft) {
  if (draft.size == 0) return nb::none();
  nb::object tokens = tuple_of(draft.tokens, draft.size, [](Token t) { return PyLong_FromLong(t); });
  nb::object confidence = tuple_of(draft.confidence, draft.size, [](float c) { return PyFloat_FromDouble(c); });
  nb::object parents = nb::none();
  if (!draft.chain) parents = tuple_of(draft.parents, draft.size, [](int parent) { return PyLong_FromLong(parent); });
  return nb::make_tuple(tokens, parents, confidence);
}

void extend(SuffixIndex& index, int sequence, const std::vector<Token>& tokens) {
  index.extend(sequence, tokens.data(), tokens.size());
}

// Feeds `counts[i]` of `tokens` to sequence `i` of `sequences`, then asks for at most `lengths[i]` of its next ones
// (0: not asked). `first` and `other` as in DraftLimits.
nb::list step(SuffixIndex& index, const std::vector<int>& sequences, const std::vector<Token>& tokens,
              const std::vector<int>& counts, const std::vector<int>& lengths, float first, float other) {
  if (counts.size() != sequences.size() || lengths.size() != sequences.size())
    throw std::invalid_argument("there must be a count and a length for each sequence");
  size_t used = 0;
  std::vector<Token> next;
  for (int count : counts) {
    if (count < 0 || used + count > tokens.size()) throw std::invalid_argument("counts exceed the tokens");
    next.push_back(count > 0 ? tokens[used] : 0);
    used += count;
  }
  index.prefetch_step(sequences, next);
  used = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    index.extend(sequences[i], tokens.data() + used, counts[i]);
    used += counts[i];
  }
  nb::list drafts;
  for (size_t i = 0; i < sequences.size(); ++i)
    drafts.append(lengths[i] > 0 ? draft_of(index.propose(sequences[i], lengths[i], first, other)) : nb::none());
  return drafts;
}

// Every node of the tree under `root`: (tokens of its path, count, continued), in the order of the paths.
std::vector<std::tuple<std::vector<Token>, uint32_t, uint32_t>> nodes(SuffixTree& tree, Index root) {
  std::vector<std::tuple<std::vector<Token>, uint32_t, uint32_t>> found;
  std::vector<Token> path;
  const std::function<void(Index)> visit = [&](Index i) {
    const Node& n = tree.node(i);
    const size_t above = path.size();
    if (i != root) {
      for (size_t depth = above; depth < n.depth && tree.label(n, depth) >= 0; ++depth)
        path.push_back(tree.label(n, depth));
      found.emplace_back(path, n.count, n.continued);
    }
    for (Index c = n.first_child; c != kNone; c = tree.node(c).next) visit(c);
    path.resize(above);
  };
  visit(root);
  std::sort(found.begin(), found.end());
  return found;
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Written = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Confidence = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

MarkovTerm markov_term(Matrix previous, Matrix next) {
  if (next.size() == 0 || previous.shape(0) != next.shape(0) || previous.shape(1) != next.shape(1))
    throw std::invalid_argument("a Markov term is two matrices [vocabulary, rank]");
  return {{previous.data(), previous.data() + previous.size()}, {next.data(), next.data() + next.size()},
          static_cast<int>(next.shape(1))};
}

// Trees of blocks of `counts[i]` consecutive rows of `logits` [rows, vocabulary + 1] behind the known tokens
// `before[i]`. Block `i` gets `sizes[i]` nodes, at most `most[i]`, behind the room of the blocks before it.
void grow_trees(Matrix logits, Counts counts, Counts most, Counts before, MarkovTerm& markov, Written tokens,
                Written parents, Confidence confidence, Written sizes) {
  const int rows = static_cast<int>(logits.shape(0)), vocabulary = static_cast<int>(logits.shape(1)) - 1;
  if (markov.vocabulary() != vocabulary) throw std::invalid_argument("the Markov term is not one for these logits");
  if (before.size() != counts.size() || most.size() != counts.size() || sizes.size() != counts.size())
    throw std::invalid_argument("there must be a known token, a size and a limit for each block");
  int64_t all = 0, nodes = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts.data()[i] < 0 || most.data()[i] < 0)
      throw std::invalid_argument("a block cannot have less than no rows or nodes");
    if (before.data()[i] < -1 || before.data()[i] >= vocabulary)
      throw std::invalid_argument("a known token is not in the draft vocabulary");
    all += counts.data()[i];
    nodes += most.data()[i];
  }
  const auto room = [&](auto& array) { return static_cast<int64_t>(array.size()) >= nodes; };
  if (all > rows || !room(tokens) || !room(parents) || !room(confidence))
    throw std::invalid_argument("blocks have more rows than there are logits, or trees more nodes than there is room");
  const BlockLogits view{logits.data(), vocabulary + 1, vocabulary};
  for (size_t i = 0, first = 0, start = 0; i < counts.size(); first += counts.data()[i], start += most.data()[i++]) {
    const auto tree = grow_tree(view, markov, before.data()[i], static_cast<int>(first), counts.data()[i], most.data()[i]);
    sizes.data()[i] = static_cast<int32_t>(tree.size());
    for (size_t n = 0; n < tree.size(); ++n) {
      tokens.data()[start + n] = tree[n].token;
      parents.data()[start + n] = tree[n].parent;
      confidence.data()[start + n] = tree[n].confidence;
    }
  }
}

}  // namespace

NB_MODULE(_suffix, m) {
  m.attr("MAX_DRAFT") = kMaxDraft;
  m.attr("MANY_CONTINUATIONS") = kManyContinuations;
  nb::class_<SuffixIndex>(m, "SuffixIndex")
      .def("__init__", [](SuffixIndex* self, int max_depth, int64_t max_cached_tokens, float max_factor) {
             new (self) SuffixIndex(limits(max_depth, max_cached_tokens, max_factor));
           }, "max_depth"_a, "max_cached_tokens"_a, "max_factor"_a)
      .def("open", &SuffixIndex::open, "adapter"_a, "sibling"_a, "first"_a, "recent_first"_a, "output_first"_a)
      .def("extend", &extend, "sequence"_a, "tokens"_a)
      .def("close", &SuffixIndex::close, "sequence"_a)
      .def("step", &step, "sequences"_a, "tokens"_a, "counts"_a, "lengths"_a, "first"_a, "other"_a)
      .def_prop_ro("num_cached", &SuffixIndex::num_cached)
      .def_prop_ro("num_sequences", &SuffixIndex::num_sequences)
      .def_prop_ro("bytes", &SuffixIndex::bytes);

  nb::class_<MarkovTerm>(m, "MarkovTerm")
      .def("__init__", [](MarkovTerm* self, Matrix previous, Matrix next) {
             new (self) MarkovTerm(markov_term(previous, next));
           }, "previous"_a, "next"_a)
      .def_prop_ro("bytes", &MarkovTerm::bytes);
  m.def("grow_trees", &grow_trees, "logits"_a, "counts"_a, "most"_a, "before"_a, "markov"_a, "tokens"_a, "parents"_a,
        "confidence"_a, "sizes"_a);

  // The tree alone, for tests.
  nb::class_<SuffixTree>(m, "SuffixTree")
      .def("__init__", [](SuffixTree* self, uint32_t max_depth, size_t segments) {
             new (self) SuffixTree(max_depth, segments);
           }, "max_depth"_a, "segments"_a = 1)
      .def("add_root", &SuffixTree::add_root)
      .def("drop_root", &SuffixTree::drop_root, "root"_a)
      .def("open", &SuffixTree::open, "root"_a)
      .def("append", &SuffixTree::append, "text"_a, "token"_a)
      .def("close", &SuffixTree::close, "text"_a)
      .def("remove_first", &SuffixTree::remove_first, "text"_a)
      .def("drop", &SuffixTree::drop, "text"_a)
      .def("longest_match", &SuffixTree::longest_match, "text"_a)
      .def("nodes", &nodes, "root"_a)
      .def_prop_ro("num_nodes", &SuffixTree::num_nodes)
      .def_prop_ro("bytes", &SuffixTree::bytes);
}
