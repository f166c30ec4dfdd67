// The kernels of one variant. Included by one source file each, which defines PACELINE_ISA and PACELINE_VARIANT first;
// everything below lives in the namespace PACELINE_ISA, so that variants never share code through the linker.
#include <algorithm>

#include "../kernels.h"
#include "../kernels/attention.h"
#include "../kernels/cache.h"
#include "../kernels/linear.h"
#include "../kernels/math.h"
#include "../kernels/moe.h"
#include "../kernels/rowwise.h"
#if defined(PACELINE_MATRIX_UNIT)
#include "../kernels/matrix_unit.h"
#endif

namespace PACELINE_ISA {
namespace {

template <class Run>
void with_cache(CacheType type, Run run) {
  switch (type) {
    case CacheType::F32: run(CacheF32{}); break;
    case CacheType::F16: run(CacheF16{}); break;
    case CacheType::BF16: run(CacheBf16{}); break;
  }
}

void store_kv(CacheType type, const AttentionOp& op, const Step& step, const std::vector<Rope>& ropes, int row,
              int head) {
  with_cache(type, [&](auto cache) {
    if (head < 0) store_row<decltype(cache)>(op, step, ropes, row);
    else store_head<decltype(cache)>(op, step, ropes, row, head);
  });
}

void attention(CacheType type, const AttentionOp& op, const Step& step, int task, int kv_head, float* scratch) {
  with_cache(type, [&](auto cache) {
    const AttentionScratch s(scratch, op.dim);
    Attention<decltype(cache)> a(op, step, step.tasks[task], kv_head, s);
    a.split(a.first_split(), s.total);
    for (int split = a.first_split() + 1; split <= a.last_split(); ++split) {
      a.split(split, s.local);
      for (int i = 0; i < a.queries(); ++i)
        merge(s.total + i * a.stride(), s.local + i * a.stride(), a.stride() - 2);
    }
    a.finish(s.total);
  });
}

void attention_split(CacheType type, const AttentionOp& op, const Step& step, int task, int kv_head, int split,
                     float* scratch, float* partial) {
  with_cache(type, [&](auto cache) {
    Attention<decltype(cache)> a(op, step, step.tasks[task], kv_head, AttentionScratch(scratch, op.dim));
    if (split >= a.first_split() && split <= a.last_split()) a.split(split, partial);
  });
}

void attention_merge(CacheType type, const AttentionOp& op, const Step& step, int task, int kv_head, float* scratch,
                     const float* partials, size_t partial_floats) {
  with_cache(type, [&](auto cache) {
    const AttentionScratch s(scratch, op.dim);
    Attention<decltype(cache)> a(op, step, step.tasks[task], kv_head, s);
    const float* first = partials + a.first_split() * partial_floats;
    std::copy(first, first + a.queries() * a.stride(), s.total);
    for (int split = a.first_split() + 1; split <= a.last_split(); ++split)
      for (int i = 0; i < a.queries(); ++i)
        merge(s.total + i * a.stride(), partials + split * partial_floats + i * a.stride(), a.stride() - 2);
    a.finish(s.total);
  });
}

}  // namespace
}  // namespace PACELINE_ISA

namespace paceline {

const Kernels& PACELINE_VARIANT() {
  namespace isa = PACELINE_ISA;
  static const Kernels table = {
      PACELINE_NAME,         isa::kBf16Activations, isa::run_embed,       isa::run_rowwise,
      isa::run_rope_table,   isa::run_linear,       isa::run_gated,       isa::run_shrink,
      isa::store_kv,         isa::attention,        isa::attention_split,  isa::attention_merge, isa::route,
      isa::gather_pair,      isa::expert_gated,     isa::expert_down,     isa::combine_row,
      isa::AttentionScratch::floats,
  };
  return table;
}

}  // namespace paceline
