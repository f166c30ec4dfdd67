// Attention of a few rows of one sequence over its paged keys and values, one kv head at a time.
//
// Keys are walked in slot order in pieces of 64 with a running maximum (online softmax); every kSplit keys, counted
// from the start of the sequence, make a partial result of their own, and partials are merged in order. What a row
// computes depends on its own visible keys alone: not on the rows beside it, nor on whether partials ran in parallel.
#pragma once

#include <algorithm>

#include "cache.h"

namespace PACELINE_ISA {

constexpr int kPiece = 64;     // keys of one softmax update
constexpr int kQueries = 32;   // query vectors (rows x heads of the kv head) of one task at most
constexpr int kTreeKeys = kMaxTreeRows + kBlock;  // keys of the last tiles of a tree row: context and path

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
  float* queries;  // [dim][kQueries]: one pointer serves all queries, and a dim's values share a cache line; of paired
                   // caches [dim / 2][kQueries][2], rounded to bfloat16 where dot products read that
  uint16_t* shares;  // [kQueries][kPiece] probabilities, likewise rounded
  uint8_t* tree;   // keys and values of the last tiles of a tree row
  static size_t floats(int dim) {
    const size_t padded = round_up(dim, 16);
    return 2 * kQueries * (2 + padded) + kQueries * (kPiece * 3 / 2 + padded) + 2 * kTreeKeys * padded + 64;
  }
  AttentionScratch(float* base, int dim) {
    const size_t padded = round_up(dim, 16);
    local = base;
    total = local + kQueries * (2 + padded);
    scores = total + kQueries * (2 + padded);
    queries = scores + kQueries * kPiece;
    shares = reinterpret_cast<uint16_t*>(queries + kQueries * padded);
    tree = reinterpret_cast<uint8_t*>(shares + kQueries * kPiece);
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
      : op_(op), step_(step), task_(task), layout_(layout_of<C>(op)), kv_head_(kv_head), s_(scratch),
        padded_(layout_.padded), per_(op.heads / op.kv_heads), queries_(task.rows * per_) {
    context_ = step.context_lens[task.seq];
    in_seq_ = task.first_row - step.row_starts[task.seq];
    table_ = step.block_tables + (static_cast<size_t>(op.group) * step.seqs + task.seq) * step.table_width;
    for (int r = 0; r < task.rows; ++r) own_[r] = context_ + (task.tree ? depth(in_seq_ + r) : in_seq_ + r);
    last_ = *std::max_element(own_, own_ + task.rows);
    lowest_ = lowest(static_cast<int>(std::min_element(own_, own_ + task.rows) - own_));
    first_split_ = lowest_ / kSplit;
    last_split_ = last_ / kSplit;
  }

  int queries() const { return queries_; }
  int first_split() const { return first_split_; }
  int last_split() const { return last_split_; }
  int stride() const { return 2 + padded_; }

  // The partial over the keys of one split, into `out` [queries][2 + padded].
  void split(int index, float* out) {
    if (!transposed_) transpose_queries();
    reset(out, queries_, padded_);
    const int begin = std::max(index * kSplit, lowest_ / kPiece * kPiece);
    const int end = std::min((index + 1) * kSplit, last_ + 1);
    // Rows of a tree share the context as those of a chain do. Behind it each row has keys of its own.
    const int apart = task_.tree ? std::clamp(tree_tiles_from() / kPiece * kPiece, begin, end) : end;
    rows(0, task_.rows, begin, apart, out);
    if (apart == end) return;
    for (int r = 0; r < task_.rows; ++r) {
      const int row_end = std::min(end, own_[r] + 1);
      if (apart >= row_end) continue;
      gather_path(r);
      rows(r, r + 1, apart, row_end, out);
    }
    gathered_ = false;
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

  int lowest(int row) const { return op_.window > 0 ? std::max(0, own_[row] - op_.window + 1) : 0; }
  int parent(int row) const { return step_.parents[step_.row_starts[task_.seq] + row]; }
  int depth(int row) const {
    int count = 0;
    while ((row = parent(row)) >= 0) ++count;
    return count;
  }
  int tree_tiles_from() const { return context_ / kBlock * kBlock; }

  // Rows `first` to `last` over the keys from `begin` to `end`.
  void rows(int first, int last, int begin, int end, float* out) {
    from_ = first * per_;
    to_ = last * per_;
    for (int key = begin; key < end; key += kPiece) piece(key, std::min(kPiece, end - key), out);
  }
  void transpose_queries() {
    for (int i = 0; i < queries_; ++i) {
      const float* q = plain_row(op_.q, task_.first_row + i / per_) + (kv_head_ * per_ + i % per_) * op_.dim;
      if constexpr (C::kPaired) pair_query(i, q);
      else for (int d = 0; d < op_.dim; ++d) s_.queries[d * kQueries + i] = q[d];
    }
    transposed_ = true;
  }

  void pair_query(int i, const float* q) {
    for (int d = 0; d < padded_; d += 16) {
      alignas(64) float exact[16];
      alignas(64) uint16_t rounded[16];
      store(exact, load_n(q + d, std::min(16, op_.dim - d)));
      if constexpr (kBf16Activations) round_bf16(exact, rounded);
      for (int j = 0; j < 16; j += 2) {
        const size_t at = ((d + j) / 2 * kQueries + i) * 2;
        if constexpr (kBf16Activations) std::copy_n(rounded + j, 2, reinterpret_cast<uint16_t*>(s_.queries) + at);
        else std::copy_n(exact + j, 2, s_.queries + at);
      }
    }
  }

  // Tree rows see the context and then their ancestors, in order, as if these stood behind it: the sums of a chain. A
  // row whose ancestors do stand there needs no copy of them.
  void gather_path(int row) {
    int path[kMaxTreeRows];
    const int count = own_[row] - context_ + 1;
    for (int i = in_seq_ + row, at = count; at > 0; i = parent(i)) path[--at] = i;
    gathered_ = path[count - 1] != count - 1;
    if (!gathered_) return;
    const int first = tree_tiles_from();
    Item* keys = reinterpret_cast<Item*>(s_.tree);
    Item* values = keys + kTreeKeys / kBlock * layout_.key_items();
    if (first < context_) {
      const Head<C> from = head_at<C>(op_, table_[first / kBlock], kv_head_);
      std::copy_n(from.keys, layout_.key_items(), keys);
      std::copy_n(from.values, padded_ * kBlock, values);
    }
    for (int j = 0; j < count; ++j) {
      const int slot_key = context_ + path[j], key = context_ + j - first;
      const Head<C> from = head_at<C>(op_, table_[slot_key / kBlock], kv_head_);
      const int lane = slot_key % kBlock, to = key % kBlock;
      Item* key_tile = keys + key / kBlock * layout_.key_items();
      Item* value_tile = values + key / kBlock * kBlock * padded_;
      for (int d = 0; d < round_up(op_.dim, C::kPaired ? 2 : 1); ++d)
        key_tile[layout_.key(to, d)] = from.keys[layout_.key(lane, d)];
      for (int d = 0; d < op_.dim; ++d) value_tile[layout_.value(to, d)] = from.values[layout_.value(lane, d)];
    }
  }

  Head<C> tile(int key) const {
    if (gathered_ && key >= tree_tiles_from()) {
      const int t = (key - tree_tiles_from()) / kBlock;
      Item* keys = reinterpret_cast<Item*>(s_.tree);
      return {keys + t * layout_.key_items(), keys + kTreeKeys / kBlock * layout_.key_items() + t * kBlock * padded_};
    }
    const int block = table_[key / kBlock];
    return block < 0 ? Head<C>{nullptr, nullptr} : head_at<C>(op_, block, kv_head_);
  }

  // sums += keys * queries of one dim, or of one pair of dims, for Q queries and T tiles.
  template <int Q, int T>
  void add_dim(int d, int tile, int first, F (*sums)[T]) {
    if constexpr (C::kPaired) {
      const size_t at = (d * kQueries + first) * 2;
      const uint16_t* rounded = reinterpret_cast<const uint16_t*>(s_.queries) + at;
      for (int i = 0; i < Q; ++i)
        for (int t = 0; t < T; ++t)
          sums[i][t] = dot_bf16(sums[i][t], tiles_[tile + t].keys + d * 2 * kBlock, rounded + 2 * i,
                                s_.queries + at + 2 * i);
    } else {
      F k[T];
      for (int t = 0; t < T; ++t) k[t] = C::get(tiles_[tile + t].keys + d * kBlock);
      for (int i = 0; i < Q; ++i) {
        const F value = set1(s_.queries[d * kQueries + first + i]);
        for (int t = 0; t < T; ++t) sums[i][t] = fma(k[t], value, sums[i][t]);
      }
    }
  }

  // Scores of Q queries against T tiles of 16 keys from tiles_[tile] on. Two sums over the dims, even and odd, keep the
  // multiply-add units busy with few queries, too; with many, a second tile halves the loads of queries.
  template <int Q, int T>
  void scores(int tile, int first) {
    F even[Q][T], odd[Q][T];
    for (int i = 0; i < Q; ++i)
      for (int t = 0; t < T; ++t) even[i][t] = odd[i][t] = zero();
    const int dims = C::kPaired ? (op_.dim + 1) / 2 : op_.dim;
    int d = 0;
    for (; d + 2 <= dims; d += 2) {
      add_dim<Q, T>(d, tile, first, even);
      add_dim<Q, T>(d + 1, tile, first, odd);
    }
    if (d < dims) add_dim<Q, T>(d, tile, first, even);
    for (int i = 0; i < Q; ++i)
      for (int t = 0; t < T; ++t) {
        F sum = add(even[i][t], odd[i][t]);
        if (op_.softcap > 0.0f) sum = mul(set1(op_.softcap), tanh(div(sum, set1(op_.softcap))));
        store(s_.scores + (first + i) * kPiece + (tile + t) * kBlock, sum);
      }
  }

  template <int T>
  void all_scores(int tile) {
    int i = from_;
    for (; i + kScoreQueries <= to_; i += kScoreQueries) scores<kScoreQueries, T>(tile, i);
    with_count<kScoreQueries - 1>(to_ - i, [&](auto q) { scores<q(), T>(tile, i); });
  }

  // acc += two values times their probabilities, which stand at `p` for the first of the queries.
  template <int Q, int W>
  void add_pair_of_values(const uint16_t* values, int p, F (*acc)[W]) {
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w)
        acc[i][w] = dot_bf16(acc[i][w], values + 32 * w, s_.shares + p + i * kPiece, s_.scores + p + i * kPiece);
  }

  // acc[i] = acc[i] * factor[i] + sum over keys of probability * value, for Q queries and 16 * W dims.
  template <int Q, int W>
  void weigh(int first, int keys, int dim, const float* factor, float* out) {
    F acc[Q][W];
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w)
        acc[i][w] = mul(load(out + (first + i) * stride() + 2 + dim + 16 * w), set1(factor[first + i]));
    for (int t = 0; t * kBlock < keys; ++t) {
      const Item* values = tiles_[t].values;
      if (!values) continue;  // outside the window: its probabilities are zero
      const int count = std::min(kBlock, keys - t * kBlock), p = first * kPiece + t * kBlock;
      int j = 0;
      if constexpr (C::kPaired) {
        for (; j + 2 <= count; j += 2) add_pair_of_values<Q, W>(values + (j * padded_ + 2 * dim), p + j, acc);
        if (j == count) continue;
        alignas(64) Item alone[W * 32];  // what lies beside the last value may be no number
        for (int k = 0; k < W * 32; ++k) alone[k] = k % 2 ? 0 : values[j * padded_ + 2 * dim + k];
        add_pair_of_values<Q, W>(alone, p + j, acc);
      } else {
        for (; j < count; ++j) {
          F v[W];
          for (int w = 0; w < W; ++w) v[w] = C::get(values + j * padded_ + dim + 16 * w);
          for (int i = 0; i < Q; ++i) {
            const F share = set1(s_.scores[p + i * kPiece + j]);
            for (int w = 0; w < W; ++w) acc[i][w] = fma(share, v[w], acc[i][w]);
          }
        }
      }
    }
    for (int i = 0; i < Q; ++i)
      for (int w = 0; w < W; ++w) store(out + (first + i) * stride() + 2 + dim + 16 * w, acc[i][w]);
  }

  template <int W>
  void weigh_rows(int keys, int dim, const float* factor, float* out) {
    int i = from_;
    for (; i + kValueQueries <= to_; i += kValueQueries) weigh<kValueQueries, W>(i, keys, dim, factor, out);
    with_count<kValueQueries - 1>(to_ - i, [&](auto q) { weigh<q(), W>(i, keys, dim, factor, out); });
  }

  void softmax(int key, float* out, float* factor) {
    float sums[kQueries];
    for (int i = from_; i < to_; ++i) {
      float* s = s_.scores + i * kPiece;
      const int low = lowest(i / per_) - key, high = own_[i / per_] - key;  // visible: low <= j <= high
      for (int j = 0; j < std::min(low, kPiece); ++j) s[j] = -INFINITY;
      for (int j = std::max(high + 1, 0); j < kPiece; ++j) s[j] = -INFINITY;
      float* p = out + i * stride();
      F top4 = load(s);
      for (int j = 16; j < kPiece; j += 16) top4 = max(top4, load(s + j));
      const float top = std::max(p[0], hmax(top4));
      F sum = zero();
      for (int j = 0; j < kPiece; j += 16) {
        const F e = exp(sub(load(s + j), set1(top)));
        store(s + j, e);
        if constexpr (C::kPaired && kBf16Activations) round_bf16(s + j, s_.shares + i * kPiece + j);
        sum = add(sum, e);
      }
      factor[i] = p[0] - top;
      sums[i] = hsum(sum);
      p[0] = top;
    }
    for (int i = from_ / 16 * 16; i < to_; i += 16) store(factor + i, exp(load(factor + i)));
    for (int i = from_; i < to_; ++i) {
      float* total = out + i * stride() + 1;
      *total = *total * factor[i] + sums[i];
    }
  }

  // Cache blocks lie far apart, so hardware prefetching starts anew in each: values are asked for while scores are
  // computed, the next piece's keys while values are weighed.
  void prefetch(const Item* from, int items) const {
    const char* p = reinterpret_cast<const char*>(from);
    for (size_t i = 0; i < items * sizeof(Item); i += 64) _mm_prefetch(p + i, _MM_HINT_T0);
  }

  void piece(int key, int keys, float* out) {
    alignas(64) float factor[kQueries] = {};
    const int count = (keys + kBlock - 1) / kBlock;
    for (int t = 0; t < count; ++t) {
      tiles_[t] = tile(key + t * kBlock);
      if (tiles_[t].values) prefetch(tiles_[t].values, kBlock * padded_);
    }
    for (int t = 0; t < count;) {
      const bool pair = kScoreTiles == 2 && t + 1 < count && tiles_[t].keys && tiles_[t + 1].keys;
      if (pair) all_scores<kScoreTiles>(t);
      else if (tiles_[t].keys) all_scores<1>(t);
      t += pair ? 2 : 1;
    }
    softmax(key, out, factor);
    for (int next = key + kPiece; next < std::min(key + 2 * kPiece, last_ + 1); next += kBlock)
      if (const Item* keys_ahead = tile(next).keys) prefetch(keys_ahead, kBlock * op_.dim);
    int dim = 0;
    for (; dim + 16 * kValueVectors <= padded_; dim += 16 * kValueVectors)
      weigh_rows<kValueVectors>(keys, dim, factor, out);
    for (; dim < padded_; dim += 16) weigh_rows<1>(keys, dim, factor, out);
  }

  const AttentionOp& op_;
  const Step& step_;
  const AttentionTask& task_;
  HeadLayout layout_;
  int kv_head_;
  AttentionScratch s_;
  int padded_, per_, queries_;
  int context_ = 0, in_seq_ = 0, lowest_ = 0, last_ = 0, first_split_ = 0, last_split_ = 0;
  int from_ = 0, to_ = 0;  // queries that are being computed
  const int32_t* table_ = nullptr;
  bool transposed_ = false, gathered_ = false;
  int own_[kQueries] = {};  // each row's own key, as if its ancestors stood one behind the other
  Head<C> tiles_[kPiece / kBlock] = {};  // of the current piece
};

}  // namespace PACELINE_ISA
