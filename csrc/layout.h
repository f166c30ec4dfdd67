// The data that kernels read and write. Plain structs: every instruction-set variant shares them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace paceline {

constexpr int kTile = 16;    // outputs of one weight tile, and keys of one cache tile: lanes of one vector
constexpr int kGroup = 32;   // activations that share one int8 scale
constexpr int kBlock = 16;   // tokens of one cache block: exactly one key tile
constexpr int kSplit = 128;  // keys of one attention partial; partials are always merged in order (row invariance)

constexpr int kMaxTreeRows = 64;  // of one sequence in a step in which it has a token tree

constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

enum class Kind : uint8_t { F32, F16, BF16, Q4, Q8 };

// Rows of one checkpoint weight, laid out in tiles of 16 outputs; a tile is read front to back as one stream.
//   F32, F16: [k][16]            BF16: [k / 2][16][2]
//   Q4, Q8: for each span of 64 k: [scales][minima][codes of 2 groups of 32]
//     scales, minima: [64 / group][16], float16 or float32
//     Q4 codes: 4 lines of 64 bytes a group; byte 4 * o + i of line j holds the codes of output o for k = 8 j + i (low
//       nibble) and k = 8 j + 4 + i (high nibble)
//     Q8 codes: 8 lines of 64 bytes a group; byte 4 * o + i of line j is k = 4 j + i
constexpr int kSpan = 64;

struct Segment {
  Kind kind = Kind::F32;
  bool has_min = false;
  bool scale_f32 = false;
  int group = kGroup;  // codes that share a scale: 16 or 32 (larger groups are repeated when packing)
  int outs = 0;
  int first_out = 0;   // column of the stacked matrix
  int first_tile = 0;
  int tiles = 0;
  int k = 0;           // padded inner size
  size_t tile_bytes = 0;
  int site = -1;       // under which adapters update these rows; -1: none does
  const uint8_t* data = nullptr;

  bool quantized() const { return kind == Kind::Q4 || kind == Kind::Q8; }
  int scale_bytes() const { return kSpan / group * kTile * (scale_f32 ? 4 : 2); }  // of a span; minima take the same
  int code_bytes() const { return kSpan * kTile / (kind == Kind::Q4 ? 2 : 1); }
  int span_bytes() const { return scale_bytes() * (has_min ? 2 : 1) + code_bytes(); }
};

struct Matrix {
  std::vector<Segment> segments;
  int outs = 0;
  int k = 0;  // unpadded inner size
  int tiles = 0;
  size_t bytes = 0;

  const Segment& segment_of(int tile) const {
    size_t s = 0;
    while (s + 1 < segments.size() && tile >= segments[s + 1].first_tile) ++s;
    return segments[s];
  }
};

// Activations of up to max_rows rows. Which forms exist is decided when the program is recorded. Matrix products read
// rows in blocks of 8, so that all rows of a block are at constant offsets from one pointer.
constexpr int kRowBlock = 8;

// One group of 32 activations of 8 rows: value ~ q * scale; sum = scale * sum(q); n8 = -8 * sum(q); n8_first the same
// over the first 16.
struct alignas(64) QuantGroup {
  int8_t q[kRowBlock][kGroup];
  float scale[kRowBlock];
  float sum[kRowBlock];
  int32_t n8[kRowBlock];
  int32_t n8_first[kRowBlock];
};
static_assert(sizeof(QuantGroup) == 384);

struct Rows {
  int width = 0;
  int padded = 0;  // width rounded up to a whole span; the padding stays zero
  float* plain = nullptr;      // [row][padded]
  QuantGroup* quant = nullptr;  // [row / 8][padded / 32]
  float* dense = nullptr;      // [row / 8][padded][8]
  uint16_t* bf16 = nullptr;    // [row / 8][padded / 2][8][2]
  bool selected = false;       // the rows are the step's selected ones, in their order; else all of it

  int groups() const { return padded / kGroup; }
};

enum class CacheType : uint8_t { F32, F16, BF16 };

// Keys and values of one kv head in one block of 16, in items. Bfloat16 dot products take two numbers of each operand, so
// in bfloat16 two neighbouring dims of a key, and the same dim of two neighbouring values, lie side by side:
// keys [dim / 2][16][2], values [16 / 2][dim][2]; else [dim][16] and [16][dim]. Dims are filled up, of keys to a multiple
// of 2, of values to one of 16.
struct HeadLayout {
  bool paired = false;
  int dim = 0, padded = 0;

  HeadLayout(CacheType type, int dim) : paired(type == CacheType::BF16), dim(dim), padded(round_up(dim, 16)) {}
  size_t key_items() const { return static_cast<size_t>(round_up(dim, 2)) * kBlock; }
  size_t items() const { return key_items() + static_cast<size_t>(padded) * kBlock; }
  size_t key(int lane, int d) const { return paired ? (d / 2 * kBlock + lane) * 2 + d % 2 : d * kBlock + lane; }
  size_t value(int lane, int d) const { return paired ? (lane / 2 * padded + d) * 2 + lane % 2 : lane * padded + d; }
};

// Paged keys and values of one group of layers: [block][layer][kv head][ keys, values ].
struct CacheGroup {
  uint8_t* data = nullptr;
  size_t head_bytes = 0;   // keys and values of one head in one block
  size_t layer_bytes = 0;
  size_t block_bytes = 0;
};

struct AttentionTask {
  int seq;
  int first_row;
  int rows;   // 1 in a token tree
  bool tree;  // the row sees the context and its ancestors only
};

struct Adapter;  // adapters.h
struct LoraPart;

// Up to a block of rows that share an adapter.
struct AdapterRows {
  const Adapter* adapter = nullptr;
  int count = 0;
  int rows[kRowBlock];
};

// Rows of adapters, grouped so that a step reads an adapter's weights once. Numbers of rows are those of their set.
struct AdapterGroups {
  std::vector<AdapterRows> all;       // of each adapter; empty where all rows are of the base model
  std::vector<AdapterRows> by_block;  // the same within each block of rows
  std::vector<int> starts;            // [blocks + 1] in by_block
};

// One tile of 16 ranks of A x for the rows of a group; the results of the part stand from `column` on.
struct ShrinkItem {
  const AdapterRows* group;
  const LoraPart* part;
  int tile, column;
};

// One step's input (see Batch in backends/base.py) and what is derived from it once a step.
struct Step {
  int rows = 0, seqs = 0, logit_rows = 0, groups = 0, table_width = 0;
  const int32_t* token_ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* row_starts = nullptr;
  const int32_t* context_lens = nullptr;
  const int32_t* slots = nullptr;
  const int32_t* block_tables = nullptr;
  const int32_t* selected = nullptr;
  const int32_t* parents = nullptr;
  const int32_t* adapters = nullptr;  // [seqs] slot or -1
  float* logits = nullptr;
  int32_t* best = nullptr;  // of each logit row the lowest id of the largest logit, -1 where some are not finite
  float* chunk_tops = nullptr;  // [logit row][logit_chunks] largest logit of each chunk's tiles, NaN likewise
  int logit_chunks = 0, logit_chunk_tiles = 0;
  float* hidden = nullptr;  // captured activations of all rows, or null
  const float* inputs = nullptr;  // rows that the caller gives, or null

  int rows_of(const Rows& x) const { return x.selected ? logit_rows : rows; }

  AdapterGroups adapter_rows[2];    // of all rows, of the selected ones
  std::vector<ShrinkItem> shrinks;  // of the open op
  float* shrunk = nullptr;  // of the open op: [row][ranks of the op's weights side by side, each in whole tiles]
  int shrunk_width = 0;
  const AdapterGroups& adapters_of(const Rows& x) const { return adapter_rows[x.selected]; }
  float* shrunk_row(int row) const { return shrunk + static_cast<size_t>(row) * shrunk_width; }

  std::vector<AttentionTask> tasks;
  int splits = 1;  // partials computed in parallel per task; 1: a task walks all its keys itself
};

}  // namespace paceline
