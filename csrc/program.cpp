#include "program.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace paceline {
namespace {

constexpr int kAheadBytes = 8192;  // as far as the kernels themselves look ahead

int divide_up(int a, int b) { return (a + b - 1) / b; }

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Chunks are small enough that a thread which loses its time slice holds up little work, large enough that claiming
// them costs nothing beside running them.
int chunk_size(int items, int threads, int chunks_a_thread) {
  return std::max({1, items / (threads * chunks_a_thread), divide_up(items, kMaxChunks)});
}

bool is_tree(const Step& s, int seq) {
  if (!s.parents) return false;
  for (int i = s.row_starts[seq]; i < s.row_starts[seq + 1]; ++i)
    if (s.parents[i] != i - s.row_starts[seq] - 1) return true;
  return false;
}

constexpr const char* kOpNames[] = {"rope", "embed", "rowwise", "linear", "gated", "attention", "moe", "capture",
                                     "input"};
constexpr const char* kPartNames[] = {"",       ".shrink", ".store", ".split", "",
                                      ".route", ".gather", ".gated", ".down",  ".combine"};

template <class Item>
void move_slots(const CacheGroup& group, const CacheShape& shape, const HeadLayout& layout, const int32_t* sources,
                const int32_t* targets, int count) {
  for (int head = 0; head < shape.layers * shape.kv_heads; ++head) {
    uint8_t* at = group.data + head * group.head_bytes;
    for (int i = 0; i < count; ++i) {
      if (sources[i] == targets[i]) continue;
      const auto* from = reinterpret_cast<const Item*>(at + sources[i] / kBlock * group.block_bytes);
      auto* to = reinterpret_cast<Item*>(at + targets[i] / kBlock * group.block_bytes);
      const int a = sources[i] % kBlock, b = targets[i] % kBlock;
      for (int d = 0; d < layout.dim; ++d) to[layout.key(b, d)] = from[layout.key(a, d)];
      const size_t values = layout.key_items();
      for (int d = 0; d < layout.dim; ++d) to[values + layout.value(b, d)] = from[values + layout.value(a, d)];
    }
  }
}

}  // namespace

Cache::Cache(CacheType type, const std::vector<CacheShape>& shapes) : type(type), shapes_(shapes) {
  const size_t item = type == CacheType::F32 ? 4 : 2;
  for (const CacheShape& shape : shapes) {
    CacheGroup g;
    g.head_bytes = HeadLayout(type, shape.dim).items() * item;
    g.layer_bytes = g.head_bytes * shape.kv_heads;
    g.block_bytes = g.layer_bytes * shape.layers;
    g.data = arena_.take(g.block_bytes * shape.blocks);
    groups.push_back(g);
  }
}

void Cache::move(int group, const int32_t* sources, const int32_t* targets, int count) {
  const CacheShape& shape = shapes_.at(group);
  const auto inside = [&](int32_t slot) { return slot >= 0 && slot / kBlock < shape.blocks; };
  if (!std::all_of(sources, sources + count, inside) || !std::all_of(targets, targets + count, inside))
    throw std::invalid_argument("a slot to move is outside of the cache");
  const HeadLayout layout(type, shape.dim);
  if (type == CacheType::F32) move_slots<float>(groups[group], shape, layout, sources, targets, count);
  else move_slots<uint16_t>(groups[group], shape, layout, sources, targets, count);
}

Program::Program(std::shared_ptr<Team> team, std::shared_ptr<Cache> cache, std::shared_ptr<Adapters> adapters,
                 const Kernels& kernels, int max_rows)
    : team_(std::move(team)),
      cache_(std::move(cache)),
      adapters_(std::move(adapters)),
      kernels_(kernels),
      max_rows_(max_rows) {}

int Program::rows(int width, int want, int capacity, bool selected) {
  Rows r;
  r.selected = selected;
  r.width = width;
  r.padded = round_up(width, kSpan);
  const size_t all = round_up(capacity ? capacity : max_rows_, kRowBlock);
  const auto take = [&](size_t bytes) { return arena_.take(bytes); };
  if (want & kPlain) r.plain = reinterpret_cast<float*>(take(all * r.padded * 4));
  if (want & kQuant) r.quant = reinterpret_cast<QuantGroup*>(take(all / kRowBlock * r.groups() * sizeof(QuantGroup)));
  if (want & kDense) r.dense = reinterpret_cast<float*>(take(all * r.padded * 4));
  if (want & kBf16) r.bf16 = reinterpret_cast<uint16_t*>(take(all * r.padded * 2));
  buffers_.push_back(r);
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::rope(std::vector<float> inv_freq, float factor) {
  Rope r{std::move(inv_freq), factor, nullptr};
  r.table = reinterpret_cast<float*>(arena_.take(static_cast<size_t>(max_rows_) * 2 * r.inv_freq.size() * 4));
  ropes_.push_back(r);
  return static_cast<int>(ropes_.size()) - 1;
}

void Program::capture(int x) {
  const Rows& rows = buffer(x);
  if (!rows.plain || rows.selected) throw std::invalid_argument("only plain floats of all rows can be captured");
  add(CaptureOp{rows, hidden_width_});
  hidden_width_ += rows.width;
}

void Program::input(int out) {
  const Rows& rows = buffer(out);
  if (!rows.plain) throw std::invalid_argument("inputs are plain floats");
  add(InputOp{rows, input_width_});
  input_width_ += rows.width;
}

void Program::seal() {
  size_t attention = 0, width = 0, shrink = 0;
  std::vector<Op> all(ropes_.begin(), ropes_.end());
  all.insert(all.end(), std::make_move_iterator(ops_.begin()), std::make_move_iterator(ops_.end()));
  ops_ = std::move(all);
  for (size_t i = 0; i < ops_.size(); ++i) {
    const int op = static_cast<int>(i);
    if (auto* a = std::get_if<AttentionOp>(&ops_[i])) {
      if (a->dim > 512) throw std::invalid_argument("head_dim above 512 is not supported");
      if (a->heads / a->kv_heads > 32) throw std::invalid_argument("more than 32 query heads per kv head");
      attention = std::max(attention, kernels_.attention_scratch(a->dim));
      for (Part p : {Part::Store, Part::Split, Part::Attend}) stages_.push_back({op, p});
    } else if (std::holds_alternative<MoeOp>(ops_[i])) {
      for (Part p : {Part::Route, Part::Gather, Part::Gated, Part::Down, Part::Combine}) stages_.push_back({op, p});
    } else {
      if (auto* r = std::get_if<RowwiseOp>(&ops_[i])) width = std::max<size_t>(width, r->x.padded);
      auto* l = std::get_if<LinearOp>(&ops_[i]);
      auto* g = std::get_if<GatedOp>(&ops_[i]);
      if (l) l->sites = sites_of({l->weight});
      if (g) g->sites = sites_of({g->gate, g->up});
      if ((l && !l->sites.empty()) || (g && !g->sites.empty())) {
        shrink = std::max<size_t>(shrink, kRowBlock * 3 / 2 * (l ? l->x : g->x).padded);
        stages_.push_back({op, Part::Shrink});
      }
      stages_.push_back({op, Part::Whole});
    }
  }
  scratch_floats_ = (std::max({attention, 2 * width, shrink}) + 31) / 16 * 16;
  scratch_.resize(scratch_floats_ * team_->size());
}

// Cuts the step's rows into attention tasks; long rows of few sequences are cut along their keys as well.
void Program::plan(Step& s) {
  const AttentionOp* first = nullptr;
  for (const Op& op : ops_)
    if ((first = std::get_if<AttentionOp>(&op))) break;
  if (!first) return;
  int longest = 0;
  for (int q = 0; q < s.seqs; ++q) longest = std::max(longest, s.context_lens[q] + s.row_starts[q + 1] - s.row_starts[q]);
  // As many rows a task as share a load of keys well, but not so many that threads have nothing to do. Cutting along the
  // keys is better than cutting rows: it repeats nothing.
  int rows = std::clamp(32 / (first->heads / first->kv_heads), 1, 16);
  const int pieces = std::max(1, longest / kSplit);
  while (rows > 1 && divide_up(s.rows, rows) * first->kv_heads * pieces < 4 * team_->size()) rows = divide_up(rows, 2);
  for (int q = 0; q < s.seqs; ++q) {
    const int end = s.row_starts[q + 1];
    const bool tree = is_tree(s, q);
    if (tree && end - s.row_starts[q] > kMaxTreeRows)
      throw std::invalid_argument("a token tree has " + std::to_string(end - s.row_starts[q]) + " rows, at most " +
                                  std::to_string(kMaxTreeRows) + " fit");
    for (int r = s.row_starts[q]; r < end; r += rows) s.tasks.push_back({q, r, std::min(rows, end - r), tree});
  }
  std::reverse(s.tasks.begin(), s.tasks.end());  // the last rows of a prompt see the most keys: start with them
  const int splits = divide_up(longest, kSplit);
  const int units = static_cast<int>(s.tasks.size()) * first->kv_heads;
  s.splits = splits > 1 && units < 4 * team_->size() ? splits : 1;
  if (s.splits > 1) partials_.resize(std::max(partials_.size(), units * s.splits * partial_floats(*first)));
}

void Program::run(Step step) {
  plan(step);
  plan_adapters(step);
  step_rows_ = step.rows;
  step_ = std::move(step);
  team_->run(*this);
  find_best();
  if (profiling_) chunks(-1);
}

// The chunks of the head know their largest logits; what is left is to find the first chunk that has the row's, and the
// logit in it.
void Program::find_best() {
  const Step& s = step_;
  const auto* head = std::get_if<LinearOp>(&ops_.back());
  if (!s.best || !head || !head->to_logits) return;
  const bool whole = head->weight->segments.size() == 1;  // tiles of stacked parts may end between columns
  const int outs = head->weight->outs, width = s.logit_chunk_tiles * kTile;
  for (int row = 0; row < s.logit_rows; ++row) {
    const float* tops = s.chunk_tops + row * s.logit_chunks;
    int best = 0;
    bool finite = whole;
    for (int c = 0; c < s.logit_chunks && finite; ++c) {
      finite = tops[c] == tops[c];
      if (tops[c] > tops[best]) best = c;
    }
    s.best[row] = -1;
    if (!finite) continue;
    const float* logits = s.logits + static_cast<size_t>(row) * outs;
    const float* first = logits + best * width;
    const float* found = std::find(first, logits + std::min(outs, (best + 1) * width), tops[best]);
    s.best[row] = static_cast<int32_t>(found - logits);
  }
}

int Program::items(Stage& stage) {
  const Op& op = ops_[stage.op];
  const int rows = step_.rows, threads = team_->size();
  stage.per_chunk = 1;
  const auto cut = [&](int items, int chunks_a_thread) {
    stage.per_chunk = chunk_size(items, threads, chunks_a_thread);
    return items;
  };
  if (stage.part == Part::Shrink) {
    const int items = open_shrink(op);
    return items ? cut(items, 2) : 0;
  }
  if (auto* r = std::get_if<RowwiseOp>(&op)) return cut(step_.rows_of(r->selects() ? r->out : r->x), 4);
  if (auto* l = std::get_if<LinearOp>(&op)) {
    if (step_.rows_of(l->x) == 0) return 0;
    if (!l->to_logits) return cut(l->weight->tiles, 3);
    const int tiles = cut(l->weight->tiles, 32);  // a head is large: late threads should find work to take
    step_.logit_chunk_tiles = stage.per_chunk;
    step_.logit_chunks = divide_up(tiles, stage.per_chunk);
    tops_.resize(std::max<size_t>(tops_.size(), static_cast<size_t>(step_.logit_rows) * step_.logit_chunks));
    step_.chunk_tops = tops_.data();
    return tiles;
  }
  if (auto* g = std::get_if<GatedOp>(&op))
    return step_.rows_of(g->x) ? cut(divide_up(g->gate->tiles, 2), 3) : 0;
  if (auto* a = std::get_if<AttentionOp>(&op)) {
    const int tasks = static_cast<int>(step_.tasks.size()) * a->kv_heads;
    if (stage.part == Part::Store) return cut(a->norm_whole ? rows : rows * a->kv_heads, 4);
    if (stage.part == Part::Split) return step_.splits > 1 ? cut(tasks * step_.splits, 16) : 0;
    return cut(tasks, 32);
  }
  if (auto* m = std::get_if<MoeOp>(&op)) {
    const int active = static_cast<int>(m->expert_rows.size());
    if (stage.part == Part::Route) return 1;
    if (stage.part == Part::Gather) return cut(static_cast<int>(m->pair_row.size()), 4);
    if (stage.part == Part::Gated) return cut(active * divide_up(m->gate[0]->tiles, 2), 16);
    if (stage.part == Part::Down) return cut(active * m->down[0]->tiles, 16);
    return cut(step_.rows_of(m->x), 4);
  }
  return cut(rows, 4);
}

int Program::chunks(int index) {
  if (profiling_) {
    const double time = now();
    if (open_kind_ >= 0) seconds_[open_kind_] += time - opened_;
    opened_ = time;
    open_kind_ = -1;
    if (index < 0) return 0;
    open_kind_ = static_cast<int>(ops_[stages_[index].op].index()) * kParts + static_cast<int>(stages_[index].part);
  }
  Stage& stage = stages_[index];
  stage.items = items(stage);
  return divide_up(stage.items, stage.per_chunk);
}

void Program::run(int index, int chunk, int thread) {
  const Stage& stage = stages_[index];
  const int first = chunk * stage.per_chunk;
  run_item_range(stage, first, std::min(first + stage.per_chunk, stage.items), thread);
}

// While others finish a stage, the first weights that this thread will read next come closer.
void Program::ahead(int index, int thread) {
  if (step_rows_ > kRowBlock) return;
  for (int i = index + 1; i < std::min(index + 5, count()); ++i) {
    const Op& op = ops_[stages_[i].op];
    const Matrix* m = nullptr;
    if (auto* l = std::get_if<LinearOp>(&op)) m = l->weight;
    if (auto* g = std::get_if<GatedOp>(&op)) m = g->gate;
    if (!m) continue;
    const int tile = m->tiles * thread / team_->size();
    const Segment& s = m->segment_of(tile);
    const uint8_t* p = s.data + (tile - s.first_tile) * s.tile_bytes;
    for (int line = 0; line < kAheadBytes; line += 64) __builtin_prefetch(p + line, 0, 3);
    return;
  }
}

void Program::run_item_range(const Stage& stage, int first, int last, int thread) {
  Op& op = ops_[stage.op];
  if (stage.part == Part::Shrink) {
    const auto* l = std::get_if<LinearOp>(&op);
    return kernels_.shrink(l ? l->x : std::get<GatedOp>(op).x, step_, first, last, scratch(thread));
  }
  if (auto* l = std::get_if<LinearOp>(&op)) return kernels_.linear(*l, step_, first, last);
  if (auto* g = std::get_if<GatedOp>(&op)) return kernels_.gated(*g, step_, first, last);
  if (auto* m = std::get_if<MoeOp>(&op)) return mixture(*m, stage.part, first, last);
  for (int i = first; i < last; ++i) {
    if (auto* r = std::get_if<RowwiseOp>(&op)) kernels_.rowwise(*r, step_, i, scratch(thread));
    else if (auto* a = std::get_if<AttentionOp>(&op)) attend(*a, stage.part, i, thread);
    else if (auto* e = std::get_if<EmbedOp>(&op)) kernels_.embed(*e, step_, i);
    else if (auto* t = std::get_if<Rope>(&op)) kernels_.rope_table(*t, step_, i);
    else if (auto* c = std::get_if<CaptureOp>(&op))
      std::copy_n(c->x.plain + static_cast<size_t>(i) * c->x.padded, c->x.width,
                  step_.hidden + static_cast<size_t>(i) * hidden_width_ + c->first);
    else if (auto* n = std::get_if<InputOp>(&op))
      std::copy_n(step_.inputs + static_cast<size_t>(i) * input_width_ + n->first, n->out.width,
                  n->out.plain + static_cast<size_t>(i) * n->out.padded);
  }
}

void Program::attend(const AttentionOp& op, Part part, int item, int thread) {
  const size_t floats = partial_floats(op);
  const int splits = step_.splits;
  if (part == Part::Store) {
    if (op.norm_whole) kernels_.store_kv(cache_->type, op, step_, ropes_, item, -1);
    else kernels_.store_kv(cache_->type, op, step_, ropes_, item / op.kv_heads, item % op.kv_heads);
  } else if (part == Part::Split) {
    const int unit = item / splits;
    kernels_.attention_split(cache_->type, op, step_, unit / op.kv_heads, unit % op.kv_heads, item % splits,
                             scratch(thread), partials_.data() + item * floats);
  } else if (splits > 1) {
    kernels_.attention_merge(cache_->type, op, step_, item / op.kv_heads, item % op.kv_heads, scratch(thread),
                             partials_.data() + static_cast<size_t>(item) * splits * floats, floats);
  } else {
    kernels_.attention(cache_->type, op, step_, item / op.kv_heads, item % op.kv_heads, scratch(thread));
  }
}

void Program::mixture(MoeOp& op, Part part, int first, int last) {
  if (part == Part::Route) return kernels_.route(op, step_);
  const int per = part == Part::Gated ? divide_up(op.gate[0]->tiles, 2) : op.down[0]->tiles;
  for (int i = first; i < last;) {
    if (part == Part::Gather) {
      kernels_.gather_pair(op, i++);
    } else if (part == Part::Combine) {
      kernels_.combine_row(op, i++);
    } else {
      const int expert = i / per, end = std::min(last, (expert + 1) * per);
      (part == Part::Gated ? kernels_.expert_gated : kernels_.expert_down)(op, expert, i % per, end - expert * per);
      i = end;
    }
  }
}

void Program::profile(bool on) {
  profiling_ = on;
  open_kind_ = -1;
  seconds_.fill(0.0);
}

std::vector<std::pair<std::string, double>> Program::times() {
  std::vector<std::pair<std::string, double>> out;
  for (size_t i = 0; i < seconds_.size(); ++i)
    if (seconds_[i] > 0.0) out.emplace_back(std::string(kOpNames[i / kParts]) + kPartNames[i % kParts], seconds_[i]);
  seconds_.fill(0.0);
  return out;
}

}  // namespace paceline
