// The recorded ops. Python's recorder fills them; kernels run them chunk by chunk.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"

namespace paceline {

// Forms of activations that an op writes for its consumers.
enum Want : int { kPlain = 1, kQuant = 2, kDense = 4, kBf16 = 8 };

struct EmbedOp {
  const Matrix* table;
  float scale;
  Rows out;
};

// Columns [first, first + out.width) of the step's inputs [rows][all input widths].
struct InputOp {
  Rows out;
  int first = 0;
};

// x += scale * norm(y); out = norm(x). Every part is optional: this is all that stands between two matrix products.
struct RowwiseOp {
  Rows x;
  bool has_add = false;
  Rows y;
  const float* y_norm = nullptr;  // weight of the norm of y before it is added, or null
  float y_scale = 1.0f;
  const float* norm = nullptr;  // weight of the output's norm, or null: copy
  float eps = 0.0f;
  Rows out;
  int want = 0;  // 0: only the addition

  bool selects() const { return want && out.selected && !x.selected; }  // then out's rows are picked from x's
};

struct LinearOp {
  const Matrix* weight;
  Rows x;
  Rows out;
  const float* bias = nullptr;
  bool residual = false;  // out += scale * product, in place
  float scale = 1.0f;
  bool to_logits = false;  // out is the step's logits; softcap applies
  float softcap = 0.0f;
  std::vector<int> sites;  // of the weight's segments; empty where no adapter updates any
};

struct GatedOp {
  const Matrix* gate;
  const Matrix* up;
  Rows x;
  Rows out;
  int activation = 0;
  int want = 0;
  std::vector<int> sites;  // of gate and up, likewise
};

// The step's hidden states [rows][all captured widths] take x in columns [first, first + x.width).
struct CaptureOp {
  Rows x;
  int first = 0;
};

struct Rope {
  std::vector<float> inv_freq;
  float factor = 1.0f;
  float* table = nullptr;  // [row][cos..., sin...] of this step
};

struct AttentionOp {
  int layer_in_group = 0;
  const CacheGroup* cache = nullptr;
  int group = 0;
  int heads = 0, kv_heads = 0, dim = 0;
  float scale = 1.0f, softcap = 0.0f, eps = 0.0f;
  int window = 0;
  int rope = -1;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  bool norm_whole = false;  // over all heads at once (OLMo 2) instead of each head
  Rows qkv;                 // in
  Rows q;                   // rotated and scaled queries
  Rows out;
  int want = 0;
};

struct MoeOp {
  Rows router_logits;
  Rows x;  // plain
  std::vector<const Matrix*> gate, up, down;
  int experts = 0, top_k = 0;
  bool normalize = false;
  int activation = 0;
  int x_want = 0, hidden_want = 0;  // forms that the experts' matrices read
  Rows gathered;  // x of each pair (row, choice), pairs sorted by expert, each expert's first pair on a block boundary
  Rows hidden;    // gated activations of each pair
  Rows partial;   // expert output of each pair
  Rows out;

  // Of this step.
  std::vector<int> pair_row;      // [pairs] -1: padding
  std::vector<int> expert_start;  // [experts + 1] multiples of kRowBlock
  std::vector<int> expert_rows;   // [experts]
  std::vector<int> pair_of;       // [rows * top_k], experts ascending
  std::vector<float> pair_weight;
};

}  // namespace paceline
