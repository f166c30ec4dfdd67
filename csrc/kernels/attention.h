// Attention of a few rows of one sequence over its paged keys and values, one kv head at a time.
//
// Keys are walked in slot order in pieces of 32 with a running maximum (online softmax); every 256 keys, counted from the
// start of the sequence, make a partial result of their own, and partials are merged in order. What a row computes
// depends on its own visible keys alone: not on the rows beside it, nor on whether partials ran in parallel.
#pragma once

#include <algorithm>

#include "cache.h"

namespace PACELINE_ISA {

constexpr int kPiece = 32;     // keys of one softmax update
constexpr int kQueries = 32;   // query vectors (rows x heads of the kv head) of one task at most
constexpr int kTreeKeys = 80;  // keys of the last tiles of a tree row: at most 15 of the context and 64 of the path

// Running softmax of one query: maximum, sum of exponentials, and dim rounded up to 16 weighted values behind it.
struct Partial {
  float max;
  float sum;
  float* acc;
};

struct AttentionScratch {
  float* local;    // [kQueries][2 + padded]
  float* total;    // [kQueries][2 + padded]
  float* scores;   // [kQueries][kPiece]
  float* keys;     // [dim][16]
  float* values;   // [kPiece][padded]
  uint8_t* tree;   // keys and values of the last tiles of a tree row
  static size_t floats(int dim) {
    const size_t padded = round_up(dim, 16);
    return 2 * kQueries * (2 + padded) + kQueries * kPiece + kPiece * (dim + padded) + 2 * kTreeKeys * padded + 64;
  }
  AttentionScratch(float* base, int dim) {
    const size_t padded = round_up(dim, 16);
    local = base;
    total = local + kQueries * (2 + padded);
    scores = total + kQueries * (2 + padded);
    keys = scores + kQueries * kPiece;
    values = keys + kPiece * dim;
    tree = reinterpret_cast<uint8_t*>(values + kPiece * padded);
  }
};

inline void reset(float* partials, int count, int padded) {
  for (int i = 0; i < count; ++i) {
    float* p = partials + i * (2 + padded);
    p[0] = -1e30f;
    p[1] = 0.0f;
    for (int d = 0; d < padded; d += 16) store(p + 2 + d, zero());
  }
}

// total = total merged with part (the flash-attention rule).
inline void merge(float* total, const float* part, int padded) {
  const float top = std::max(total[0], part[0]);
  alignas(64) float e[16] = {total[0] - top, part[0] - top};
  store(e, exp(load(e)));
  total[1] = total[1] * e[0] + part[1] * e[1];
  total[0] = top;
  const F a = set1(e[0]), b = set1(e[1]);
  for (int d = 2; d < 2 + padded; d += 16) store(total + d, fma(load(part + d), b, mul(load(total + d), a)));
}

template <class C>
class Attention {
 public:
  Attention(const AttentionOp& op, const Step& step, const AttentionTask& task, int kv_head, AttentionScratch scratch)
      : op_(op), step_(step), task_(task), kv_head_(kv_head), s_(scratch), padded_(round_up(op.dim, 16)),
        per_(op.heads / op.kv_heads), queries_(task.rows * per_) {
    context_ = step.context_lens[task.seq];
    in_seq_ = task.first_row - step.row_starts[task.seq];
    table_ = step.block_tables + (static_cast<size_t>(op.group) * step.seqs + task.seq) * step.table_width;
    if (task.tree) gather_path();
    last_ = task.tree ? context_ + depth_ - 1 : context_ + in_seq_ + task.rows - 1;
    const int first_visible = lowest(0);
    first_split_ = first_visible / kSplit;
    last_split_ = last_ / kSplit;
  }

  int queries() const { return queries_; }
  int first_split() const { return first_split_; }
  int last_split() const { return last_split_; }
  int stride() const { return 2 + padded_; }

  // The partial over the keys of one split, into `out` [queries][2 + padded].
  void split(int index, float* out) {
    reset(out, queries_, padded_);
    const int begin = std::max(index * kSplit, lowest(0) / kPiece * kPiece);
    const int end = std::min((index + 1) * kSplit, last_ + 1);
    for (int key = begin; key < end; key += kPiece) piece(key, std::min(kPiece, end - key), out);
  }

  void finish(const float* total) {
    for (int i = 0; i < queries_; ++i) {
      const float* p = total + i * stride();
      const F inverse = set1(1.0f / p[1]);
      alignas(64) float out[512];
      for (int d = 0; d < padded_; d += 16) store(out + d, mul(load(p + 2 + d), inverse));
      const int column = (kv_head_ * per_ + i % per_) * op_.dim, row = task_.first_row + i / per_;
      if (op_.want == kPlain) std::copy(out, out + op_.dim, plain_row(op_.out, row) + column);
      else write_forms(op_.out, op_.want, row, column, op_.dim, out);
    }
  }

 private:
  using Item = typename C::Item;

  int own_key(int row) const { return task_.tree ? last_ : context_ + in_seq_ + row; }
  int lowest(int row) const {
    const int own = task_.tree ? context_ + depth_ - 1 : context_ + in_seq_ + row;
    return op_.window > 0 ? std::max(0, own - op_.window + 1) : 0;
  }
  const float* query(int i) const {
    return plain_row(op_.q, task_.first_row + i / per_) + (kv_head_ * per_ + i % per_) * op_.dim;
  }

  // Tree rows see the context and then their ancestors, in order, as if these stood behind it: the same sums as in a chain.
  void gather_path() {
    depth_ = 0;
    const int start = step_.row_starts[task_.seq];
    for (int i = in_seq_; i >= 0; i = step_.parents[start + i]) path_[depth_++] = i;
    std::reverse(path_, path_ + depth_);
    const int first = context_ / kBlock * kBlock;
    Item* keys = reinterpret_cast<Item*>(s_.tree);
    Item* values = keys + kTreeKeys * op_.dim;
    for (int j = first; j < context_ + depth_; ++j) {
      const int slot_key = j < context_ ? j : context_ + path_[j - context_];
      const Head<C> from = head_at<C>(op_, table_[slot_key / kBlock], kv_head_);
      const int lane = slot_key % kBlock, tile = (j - first) / kBlock, to = j % kBlock;
      for (int d = 0; d < op_.dim; ++d) keys[(tile * op_.dim + d) * kBlock + to] = from.keys[d * kBlock + lane];
      std::copy(from.values + lane * padded_, from.values + lane * padded_ + op_.dim,
                values + (tile * kBlock + to) * padded_);
    }
  }

  Head<C> tile(int key) const {
    if (task_.tree && key >= context_ / kBlock * kBlock) {
      const int t = (key - context_ / kBlock * kBlock) / kBlock;
      Item* keys = reinterpret_cast<Item*>(s_.tree);
      return {keys + t * op_.dim * kBlock, keys + kTreeKeys * op_.dim + t * kBlock * padded_};
    }
    const int block = table_[key / kBlock];
    return block < 0 ? Head<C>{nullptr, nullptr} : head_at<C>(op_, block, kv_head_);
  }

  // Keys [key, key + 16) and `count` of their values as floats. A block that fell out of the window is given back while
  // the piece it belongs to still has visible keys: zeros stand for it, and the mask hides them.
  void load_tile(int key, int half, int count) {
    const Head<C> head = tile(key);
    if (!head.keys) {
      std::fill(s_.keys, s_.keys + kBlock * op_.dim, 0.0f);
      std::fill(s_.values + half * kBlock * padded_, s_.values + (half + 1) * kBlock * padded_, 0.0f);
      return;
    }
    for (int d = 0; d < op_.dim; ++d) store(s_.keys + d * kBlock, C::get(head.keys + d * kBlock));
    for (int i = 0; i < count * padded_; i += 16)
      store(s_.values + half * kBlock * padded_ + i, C::get(head.values + i));
  }

  template <int Q>
  void scores(const float* keys, int first, int half) {
    F acc[Q];
    const float* q[Q];
    for (int i = 0; i < Q; ++i) {
      acc[i] = zero();
      q[i] = query(first + i);
    }
    for (int d = 0; d < op_.dim; ++d) {
      const F k = load(keys + d * kBlock);
      for (int i = 0; i < Q; ++i) acc[i] = fma(k, set1(q[i][d]), acc[i]);
    }
    for (int i = 0; i < Q; ++i) {
      if (op_.softcap > 0.0f) acc[i] = mul(set1(op_.softcap), tanh(div(acc[i], set1(op_.softcap))));
      store(s_.scores + (first + i) * kPiece + half * kBlock, acc[i]);
    }
  }

  void all_scores(const float* keys, int half) {
    int i = 0;
    for (; i + 8 <= queries_; i += 8) scores<8>(keys, i, half);
    for (; i + 4 <= queries_; i += 4) scores<4>(keys, i, half);
    switch (queries_ - i) {
      case 3: scores<3>(keys, i, half); break;
      case 2: scores<2>(keys, i, half); break;
      case 1: scores<1>(keys, i, half); break;
      default: break;
    }
  }

  // acc[i] = acc[i] * factor[i] + sum over keys of probability * value, for Q queries and 16 * W dims.
  template <int Q, int W>
  void weigh(int first, int keys, int dim, const float* factor, float* out) {
    F acc[Q][W];
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w)
        acc[i][w] = mul(load(out + (first + i) * stride() + 2 + dim + 16 * w), set1(factor[first + i]));
    for (int j = 0; j < keys; ++j) {
      F v[W];
      for (int w = 0; w < W; ++w) v[w] = load(s_.values + j * padded_ + dim + 16 * w);
      for (int i = 0; i < Q; ++i) {
        const F p = set1(s_.scores[(first + i) * kPiece + j]);
        for (int w = 0; w < W; ++w) acc[i][w] = fma(p, v[w], acc[i][w]);
      }
    }
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w) store(out + (first + i) * stride() + 2 + dim + 16 * w, acc[i][w]);
  }

  template <int W>
  void weigh_rows(int keys, int dim, const float* factor, float* out) {
    int i = 0;
    for (; i + 4 <= queries_; i += 4) weigh<4, W>(i, keys, dim, factor, out);
    switch (queries_ - i) {
      case 3: weigh<3, W>(i, keys, dim, factor, out); break;
      case 2: weigh<2, W>(i, keys, dim, factor, out); break;
      case 1: weigh<1, W>(i, keys, dim, factor, out); break;
      default: break;
    }
  }

  void softmax(int key, float* out, float* factor) {
    for (int i = 0; i < queries_; ++i) {
      float* s = s_.scores + i * kPiece;
      const int low = lowest(i / per_) - key, high = own_key(i / per_) - key;  // visible: low <= j <= high
      for (int j = 0; j < std::min(low, kPiece); ++j) s[j] = -INFINITY;
      for (int j = std::max(high + 1, 0); j < kPiece; ++j) s[j] = -INFINITY;
      float* p = out + i * stride();
      const F a = load(s), b = load(s + 16);
      const float top = std::max(p[0], hmax(max(a, b)));
      const F ea = exp(sub(a, set1(top))), eb = exp(sub(b, set1(top)));
      store(s, ea);
      store(s + 16, eb);
      alignas(64) float change[16] = {p[0] - top};
      store(change, exp(load(change)));
      factor[i] = change[0];
      p[1] = p[1] * change[0] + hsum(add(ea, eb));
      p[0] = top;
    }
  }

  void piece(int key, int keys, float* out) {
    float factor[kQueries];
    for (int half = 0; half * kBlock < keys; ++half) {
      load_tile(key + half * kBlock, half, std::min(kBlock, keys - half * kBlock));
      all_scores(s_.keys, half);
    }
    softmax(key, out, factor);
    int dim = 0;
    for (; dim + 64 <= padded_; dim += 64) weigh_rows<4>(keys, dim, factor, out);
    for (; dim < padded_; dim += 16) weigh_rows<1>(keys, dim, factor, out);
  }

  const AttentionOp& op_;
  const Step& step_;
  const AttentionTask& task_;
  int kv_head_;
  AttentionScratch s_;
  int padded_, per_, queries_;
  int context_ = 0, in_seq_ = 0, depth_ = 0, last_ = 0, first_split_ = 0, last_split_ = 0;
  const int32_t* table_ = nullptr;
  int path_[64 + 1] = {};
};

}  // namespace PACELINE_ISA
