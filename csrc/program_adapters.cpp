// What a program does for adapters: once a step it groups the rows of each, before each product it cuts the shrink.
#include <algorithm>
#include <tuple>

#include "program.h"

namespace paceline {

std::vector<int> Program::sites_of(const std::vector<const Matrix*>& weights) {
  std::vector<int> sites;
  for (const Matrix* m : weights)
    for (const Segment& s : m->segments) sites.push_back(s.site);
  const bool any = std::any_of(sites.begin(), sites.end(), [](int site) { return site >= 0; });
  return any ? sites : std::vector<int>{};
}

void Program::plan_adapters(Step& s) {
  if (!s.adapters) return;
  std::vector<int> slots(s.rows), selected(s.logit_rows);  // of each row its adapter's, -1: none
  for (int q = 0; q < s.seqs; ++q)
    std::fill(slots.begin() + s.row_starts[q], slots.begin() + s.row_starts[q + 1], s.adapters[q]);
  for (int i = 0; i < s.logit_rows; ++i) selected[i] = slots[s.selected[i]];
  group_adapters(slots, s.adapter_rows[false]);
  group_adapters(selected, s.adapter_rows[true]);
}

void Program::group_adapters(const std::vector<int>& slots, AdapterGroups& to) {
  std::vector<std::pair<int, int>> rows;  // slot, row
  const int count = static_cast<int>(slots.size());
  for (int r = 0; r < count; ++r)
    if (slots[r] >= 0) rows.emplace_back(slots[r], r);
  if (rows.empty()) return;
  const auto group = [&](std::vector<AdapterRows>& groups, int rows_a_block) {
    std::sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
      return std::tuple(a.second / rows_a_block, a.first, a.second) <
             std::tuple(b.second / rows_a_block, b.first, b.second);
    });
    for (const auto& [slot, row] : rows) {
      const Adapter* adapter = &adapters_->at(slot);
      const AdapterRows* last = groups.empty() ? nullptr : &groups.back();
      if (!last || last->adapter != adapter || last->count == kRowBlock ||
          last->rows[0] / rows_a_block != row / rows_a_block)
        groups.push_back({adapter, 0, {}});
      groups.back().rows[groups.back().count++] = row;
    }
  };
  group(to.all, count);
  group(to.by_block, kRowBlock);
  to.starts.assign(round_up(count, kRowBlock) / kRowBlock + 1, 0);
  for (const AdapterRows& g : to.by_block) ++to.starts[g.rows[0] / kRowBlock + 1];
  for (size_t b = 1; b < to.starts.size(); ++b) to.starts[b] += to.starts[b - 1];
}

// The pieces in which A x of an op is computed, those of one adapter one behind the other; gives their number.
int Program::open_shrink(const Op& op) {
  const auto* l = std::get_if<LinearOp>(&op);
  const Rows& x = l ? l->x : std::get<GatedOp>(op).x;
  step_.shrinks.clear();
  step_.shrunk_width = 0;
  for (const AdapterRows& group : step_.adapters_of(x).all) {
    int column = 0;
    for (const int site : l ? l->sites : std::get<GatedOp>(op).sites) {
      const LoraPart& part = group.adapter->part(site);
      for (int tile = 0; tile < part.tiles(); ++tile) step_.shrinks.push_back({&group, &part, tile, column});
      column += part.tiles() * kTile;
    }
    step_.shrunk_width = std::max(step_.shrunk_width, column);
  }
  shrunk_.resize(std::max(shrunk_.size(), static_cast<size_t>(step_.rows) * step_.shrunk_width));
  step_.shrunk = shrunk_.data();
  return static_cast<int>(step_.shrinks.size());
}

}  // namespace paceline
