// A recorded model: ops in order, their buffers, and what it takes to run them as stages of the thread team.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "adapters.h"
#include "arena.h"
#include "kernels.h"
#include "team.h"

namespace paceline {

struct CacheShape {
  int layers, kv_heads, dim, blocks;
};

class Cache {
 public:
  Cache(CacheType type, const std::vector<CacheShape>& shapes);
  CacheType type;
  std::vector<CacheGroup> groups;

  // Copies keys and values of slot sources[i] to slot targets[i] in all layers of a group, one i after the other.
  void move(int group, const int32_t* sources, const int32_t* targets, int count);

 private:
  std::vector<CacheShape> shapes_;
  Arena arena_;
};

class Program final : public Stages {
 public:
  Program(std::shared_ptr<Team> team, std::shared_ptr<Cache> cache, std::shared_ptr<Adapters> adapters,
          const Kernels& kernels, int max_rows);
  ~Program() override { team_->settle(); }

  // Recording. rows() gives the number of a buffer that other ops name.
  int rows(int width, int want, int capacity = 0, bool selected = false);
  int rope(std::vector<float> inv_freq, float factor);
  const Rows& buffer(int id) const { return buffers_.at(id); }
  const CacheGroup* cache_group(int group) const { return &cache_->groups.at(group); }
  int max_rows() const { return max_rows_; }
  int hidden_width() const { return hidden_width_; }  // columns of all that is captured
  void capture(int x);
  int input_width() const { return input_width_; }  // columns of all rows that the caller gives
  void input(int out);
  template <class Op>
  void add(Op op) {
    ops_.emplace_back(std::move(op));
  }
  void seal();  // after the last op

  void run(Step step);

  // Seconds spent per kind of stage since the last call, while profiling is on.
  void profile(bool on);
  std::vector<std::pair<std::string, double>> times();

  int count() const override { return static_cast<int>(stages_.size()); }
  int chunks(int stage) override;
  void run(int stage, int chunk, int thread) override;
  void ahead(int stage, int thread) override;

 private:
  using Op = std::variant<Rope, EmbedOp, RowwiseOp, LinearOp, GatedOp, AttentionOp, MoeOp, CaptureOp, InputOp>;
  enum class Part { Whole, Shrink, Store, Split, Attend, Route, Gather, Gated, Down, Combine };
  static constexpr int kParts = 10;
  struct Stage {
    int op;
    Part part;
    int items = 0;  // of this run
    int per_chunk = 1;
  };

  void plan(Step& step);
  void find_best();
  static std::vector<int> sites_of(const std::vector<const Matrix*>& weights);  // of all segments; empty: none has one
  void plan_adapters(Step& step);
  void group_adapters(const std::vector<int>& slots, AdapterGroups& to);
  int open_shrink(const Op& op);
  int items(Stage& stage);
  void run_item_range(const Stage& stage, int first, int last, int thread);
  void attend(const AttentionOp& op, Part part, int item, int thread);
  void mixture(MoeOp& op, Part part, int first, int last);
  float* scratch(int thread) { return scratch_.data() + thread * scratch_floats_; }
  size_t partial_floats(const AttentionOp& op) const { return size_t{32} * (2 + round_up(op.dim, 16)); }

  std::shared_ptr<Team> team_;
  std::shared_ptr<Cache> cache_;
  std::shared_ptr<Adapters> adapters_;
  const Kernels& kernels_;
  int max_rows_;
  int hidden_width_ = 0;
  int input_width_ = 0;
  Arena arena_;
  std::vector<Rows> buffers_;
  std::vector<Rope> ropes_;
  std::vector<Op> ops_;
  std::vector<Stage> stages_;
  std::vector<float> scratch_, partials_, tops_, shrunk_;
  size_t scratch_floats_ = 0;
  Step step_;
  std::atomic<int> step_rows_{0};
  bool profiling_ = false;
  double opened_ = 0.0;
  int open_kind_ = -1;
  std::array<double, std::variant_size_v<Op> * kParts> seconds_{};
};

}  // namespace paceline
