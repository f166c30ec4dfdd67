// Mixture of experts: rows are sorted by expert, so that each expert's weights are read once a step.
#pragma once

#include <algorithm>
#include <numeric>

#include "linear.h"

namespace PACELINE_ISA {

// Chooses experts and lays out the pairs (row, choice): one thread, once a step and layer.
inline void route(MoeOp& op, const Step& step) {
  const int rows = step.rows_of(op.x), pairs = rows * op.top_k;
  op.pair_of.resize(pairs);
  op.pair_weight.resize(pairs);
  op.expert_rows.assign(op.experts, 0);
  std::vector<int> chosen(pairs), order(op.experts);
  std::vector<float> p(op.experts);
  for (int row = 0; row < rows; ++row) {
    const float* logits = plain_row(op.router_logits, row);
    const float top = *std::max_element(logits, logits + op.experts);
    float total = 0.0f;
    for (int e = 0; e < op.experts; ++e) total += p[e] = std::exp(logits[e] - top);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + op.top_k, order.end(),
                      [&](int a, int b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
    std::sort(order.begin(), order.begin() + op.top_k);
    float kept = 0.0f;
    for (int j = 0; j < op.top_k; ++j) kept += p[order[j]];
    for (int j = 0; j < op.top_k; ++j) {
      chosen[row * op.top_k + j] = order[j];
      op.pair_weight[row * op.top_k + j] = p[order[j]] / (op.normalize ? kept : total);
      ++op.expert_rows[order[j]];
    }
  }
  op.expert_start.assign(op.experts + 1, 0);
  for (int e = 0; e < op.experts; ++e)
    op.expert_start[e + 1] = op.expert_start[e] + round_up(op.expert_rows[e], kRowBlock);
  op.pair_row.assign(op.expert_start[op.experts], -1);
  std::vector<int> next(op.expert_start.begin(), op.expert_start.end() - 1);
  for (int i = 0; i < pairs; ++i) {
    op.pair_of[i] = next[chosen[i]]++;
    op.pair_row[op.pair_of[i]] = i / op.top_k;
  }
}

inline void gather_pair(const MoeOp& op, int pair) {
  if (op.pair_row[pair] >= 0)
    write_forms(op.gathered, op.x_want, pair, 0, op.x.padded, plain_row(op.x, op.pair_row[pair]));
}

inline void expert_gated(const MoeOp& op, int expert, int first, int last) {
  const int start = op.expert_start[expert], rows = op.expert_rows[expert];
  [[maybe_unused]] const MatrixUnit unit(rows);
  for (int row = 0; row < rows; row += kRowBlock) {
    const int block = (start + row) / kRowBlock, in_block = std::min(kRowBlock, rows - row);
    gated_rows(*op.gate[expert], *op.up[expert], static_cast<Act>(op.activation), op.hidden, op.hidden_want, block,
               in_block, first, last, [&](const Segment& s, size_t, int tile, int count, F* sums) {
                 block_products(s, tile, count, op.gathered, block, in_block, sums);
               });
  }
}

inline void expert_down(const MoeOp& op, int expert, int first, int last) {
  [[maybe_unused]] const MatrixUnit unit(op.expert_rows[expert]);
  F acc[kTilesAtOnce * kRowBlock];
  for (int row = 0; row < op.expert_rows[expert]; row += kRowBlock) {
    const int at = op.expert_start[expert] + row, in_block = std::min(kRowBlock, op.expert_rows[expert] - row);
    for_tiles(*op.down[expert], first, last, [&](const Segment& s, int tile, int count) {
      block_products(s, tile, count, op.hidden, at / kRowBlock, in_block, acc);
      for (int t = 0; t < count; ++t)
        for (int r = 0; r < in_block; ++r)
          store_n(plain_row(op.partial, at + r) + (tile + t) * kTile, acc[t * kRowBlock + r],
                  std::min(kTile, s.outs - (tile + t) * kTile));
    });
  }
}

inline void combine_row(const MoeOp& op, int row) {
  float* out = plain_row(op.out, row);
  for (int i = 0; i < op.out.padded; i += 16) store(out + i, zero());
  for (int j = 0; j < op.top_k; ++j) {
    const F weight = set1(op.pair_weight[row * op.top_k + j]);
    const float* part = plain_row(op.partial, op.pair_of[row * op.top_k + j]);
    for (int i = 0; i < op.out.padded; i += 16) store(out + i, fma(load(part + i), weight, load(out + i)));
  }
}

}  // namespace PACELINE_ISA
