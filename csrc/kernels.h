// One table of kernels an instruction-set variant; the program picks one at run time.
#pragma once

#include "ops.h"

namespace paceline {

struct Kernels {
  const char* name;
  bool bf16_activations;  // bf16 weights read activations rounded to bf16 (else exact floats)
  void (*embed)(const EmbedOp&, const Step&, int row);
  void (*rowwise)(const RowwiseOp&, const Step&, int row, float* scratch);
  void (*rope_table)(const Rope&, const Step&, int row);
  void (*linear)(const LinearOp&, const Step&, int first_tile, int last_tile);
  void (*gated)(const GatedOp&, const Step&, int first_pair, int last_pair);
  void (*shrink)(const Rows& x, const Step&, int first_item, int last_item, float* scratch);
  void (*store_kv)(CacheType, const AttentionOp&, const Step&, const std::vector<Rope>&, int row, int kv_head);
  void (*attention)(CacheType, const AttentionOp&, const Step&, int task, int kv_head, float* scratch);
  void (*attention_split)(CacheType, const AttentionOp&, const Step&, int task, int kv_head, int split, float* scratch,
                          float* partial);
  void (*attention_merge)(CacheType, const AttentionOp&, const Step&, int task, int kv_head, float* scratch,
                          const float* partials, size_t partial_floats);
  void (*route)(MoeOp&, const Step&);
  void (*gather_pair)(const MoeOp&, int pair);
  void (*expert_gated)(const MoeOp&, int expert, int first_pair, int last_pair);
  void (*expert_down)(const MoeOp&, int expert, int first_tile, int last_tile);
  void (*combine_row)(const MoeOp&, int row);
  size_t (*attention_scratch)(int dim);  // floats a thread
};

const Kernels& kernels_avx2();
const Kernels& kernels_avx512();       // AVX-512 with VNNI
const Kernels& kernels_avx512_bf16();  // and BF16
const Kernels& kernels_amx();          // and integer products on AMX tiles
const Kernels& kernels_amx_emulated();

// The variants this CPU can run, best first.
std::vector<const Kernels*> available_kernels();

// Variants that exist to test others by; never chosen unasked.
std::vector<const Kernels*> test_kernels();

}  // namespace paceline
