// The native module `paceline._cpu`: the smallest surface that the recorder (backends/cpu/) needs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "pack.h"
#include "program.h"
#include "stream.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace paceline;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using MutableInts = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Weights and vectors: they live as long as anything that uses them.
struct Store {
  Arena arena;
  std::vector<std::unique_ptr<Matrix>> matrices;

  const Matrix* matrix(int rows, int columns) {
    matrices.push_back(std::make_unique<Matrix>());
    matrices.back()->outs = rows;
    matrices.back()->k = columns;
    return matrices.back().get();
  }
};

void add_part(Store& store, Matrix& m, const std::string& kind, int rows, int columns, int group, bool scale_f32,
              Bytes data, std::optional<Bytes> scale, std::optional<Bytes> minimum, int site) {
  const char* names[] = {"f32", "f16", "bf16", "q4", "q8"};
  int k = 0;
  while (k < 5 && kind != names[k]) ++k;
  if (k == 5) throw std::invalid_argument("unknown kind " + kind);
  const WeightView view{static_cast<Kind>(k), rows, columns, group, scale_f32, data.data(),
                        scale ? scale->data() : nullptr, minimum ? minimum->data() : nullptr};
  Segment s;
  {
    nb::gil_scoped_release release;
    s = pack(view, store.arena);
  }
  s.site = site;
  s.first_out = m.outs;
  s.first_tile = m.tiles;
  m.outs += rows;
  m.tiles += s.tiles;
  m.k = columns;
  m.bytes += s.tile_bytes * s.tiles;
  m.segments.push_back(s);
}

const float* add_vector(Store& store, nb::ndarray<const float, nb::ndim<1>, nb::c_contig> values) {
  auto* to = reinterpret_cast<float*>(store.arena.take(values.size() * 4 + 64));
  std::copy(values.data(), values.data() + values.size(), to);
  return to;
}

struct Vector {
  const float* data;
  int size;
};

const float* data_of(const Vector* v) { return v ? v->data : nullptr; }

const Kernels& kernels_named(const std::string& name) {
  for (const auto& list : {available_kernels(), test_kernels()})
    for (const Kernels* k : list)
      if (name == k->name) return *k;
  throw std::invalid_argument("this CPU cannot run the kernels '" + name + "'");
}

std::vector<std::pair<std::string, bool>> names_of(const std::vector<const Kernels*>& list) {
  std::vector<std::pair<std::string, bool>> out;
  for (const Kernels* k : list) out.emplace_back(k->name, k->bf16_activations);
  return out;
}

const int32_t* pointer(const std::optional<Ints>& a) { return a ? a->data() : nullptr; }

void run(Program& p, Ints token_ids, Ints positions, Ints row_starts, Ints context_lens, Ints slots, Ints block_tables,
         Ints selected, std::optional<Ints> parents, std::optional<Ints> adapters, Floats logits, MutableInts best,
         std::optional<Floats> hidden, std::optional<ConstFloats> inputs) {
  Step s;
  s.rows = static_cast<int>(token_ids.size());
  s.seqs = static_cast<int>(context_lens.size());
  s.logit_rows = static_cast<int>(selected.size());
  if (s.rows > p.max_rows()) throw std::invalid_argument("more rows than the program was recorded for");
  if (logits.shape(0) < selected.size()) throw std::invalid_argument("logits has fewer rows than were selected");
  if (best.size() < selected.size()) throw std::invalid_argument("best has fewer entries than rows were selected");
  s.best = best.data();
  if (p.hidden_width() > 0) {
    if (!hidden || hidden->shape(0) < token_ids.size() || static_cast<int>(hidden->shape(1)) != p.hidden_width())
      throw std::invalid_argument("hidden must have a row for each row and all captured columns");
    s.hidden = hidden->data();
  }
  if (p.input_width() > 0) {
    if (!inputs || inputs->shape(0) != token_ids.size() || static_cast<int>(inputs->shape(1)) != p.input_width())
      throw std::invalid_argument("inputs must be [" + std::to_string(s.rows) + ", " + std::to_string(p.input_width()) +
                                  "] floats");
    s.inputs = inputs->data();
  }
  s.groups = static_cast<int>(slots.shape(0));
  s.table_width = static_cast<int>(block_tables.shape(2));
  s.token_ids = token_ids.data();
  s.positions = positions.data();
  s.row_starts = row_starts.data();
  s.context_lens = context_lens.data();
  s.slots = slots.data();
  s.block_tables = block_tables.data();
  s.selected = selected.data();
  s.parents = pointer(parents);
  if (adapters && adapters->size() != context_lens.size())
    throw std::invalid_argument("each sequence needs an adapter slot, or -1");
  s.adapters = pointer(adapters);
  s.logits = logits.data();
  nb::gil_scoped_release release;
  p.run(std::move(s));
}

// A part: site, scale, A [rank, in], B [out, rank]; both matrices of float32, or of bfloat16 seen as uint16.
template <class T>
using Numbers = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
LoraView lora_view(int site, float scale, const Numbers<T>& a, const Numbers<T>& b) {
  if (a.shape(0) != b.shape(1) || a.shape(0) == 0) throw std::invalid_argument("A and B must have one rank");
  return {site, static_cast<int>(a.shape(0)), static_cast<int>(a.shape(1)), static_cast<int>(b.shape(0)),
          sizeof(T) == 4, scale, reinterpret_cast<const uint8_t*>(a.data()),
          reinterpret_cast<const uint8_t*>(b.data())};
}

void bind_adapters(nb::module_& m) {
  using Wide = std::tuple<int, float, Numbers<float>, Numbers<float>>;
  using Half = std::tuple<int, float, Numbers<uint16_t>, Numbers<uint16_t>>;
  nb::class_<Adapters>(m, "Adapters")
      .def(nb::init<int>())
      .def("load", [](Adapters& adapters, int index, const std::vector<std::variant<Wide, Half>>& parts) {
        std::vector<LoraView> views;
        for (const auto& part : parts)
          std::visit([&](const auto& p) {
            views.push_back(lora_view(std::get<0>(p), std::get<1>(p), std::get<2>(p), std::get<3>(p)));
          }, part);
        nb::gil_scoped_release release;
        adapters.load(index, views);
      })
      .def("unload", &Adapters::unload);
}

void bind_recording(nb::class_<Program>& program) {
  program.def("rows", &Program::rows, "width"_a, "want"_a, "capacity"_a = 0, "selected"_a = false)
      .def("rope", &Program::rope)
      .def("embed", [](Program& p, const Matrix* table, float scale, int out) {
        p.add(EmbedOp{table, scale, p.buffer(out)});
      })
      .def("rowwise", [](Program& p, int x, int y, const Vector* y_norm, float y_scale, const Vector* norm, float eps,
                         int out, int want) {
        RowwiseOp op;
        op.x = p.buffer(x);
        op.has_add = y >= 0;
        if (y >= 0) op.y = p.buffer(y);
        op.y_norm = data_of(y_norm);
        op.y_scale = y_scale;
        op.norm = data_of(norm);
        op.eps = eps;
        if (out >= 0) op.out = p.buffer(out);
        op.want = want;
        p.add(op);
      }, "x"_a, "y"_a, "y_norm"_a.none(), "y_scale"_a, "norm"_a.none(), "eps"_a, "out"_a, "want"_a)
      .def("linear", [](Program& p, const Matrix* w, int x, int out, const Vector* bias, bool residual, float scale,
                        bool to_logits, float softcap) {
        const Rows to = out >= 0 ? p.buffer(out) : Rows{};
        p.add(LinearOp{w, p.buffer(x), to, data_of(bias), residual, scale, to_logits, softcap, {}});
      }, "weight"_a, "x"_a, "out"_a, "bias"_a.none(), "residual"_a, "scale"_a, "to_logits"_a, "softcap"_a)
      .def("gated", [](Program& p, const Matrix* gate, const Matrix* up, int x, int out, int activation, int want) {
        if (gate->segments.size() != 1 || up->segments.size() != 1 || gate->outs != up->outs)
          throw std::invalid_argument("gate and up must each be one weight, of equal shape");
        p.add(GatedOp{gate, up, p.buffer(x), p.buffer(out), activation, want, {}});
      })
      .def("attention", [](Program& p, int group, int layer_in_group, int heads, int kv_heads, int dim, float scale,
                           float softcap, float eps, int window, int rope, const Vector* q_norm, const Vector* k_norm,
                           int qkv, int q, int out, int want) {
        AttentionOp op;
        op.layer_in_group = layer_in_group;
        op.cache = p.cache_group(group);
        op.group = group;
        op.heads = heads;
        op.kv_heads = kv_heads;
        op.dim = dim;
        op.scale = scale;
        op.softcap = softcap;
        op.eps = eps;
        op.window = window;
        op.rope = rope;
        op.q_norm = data_of(q_norm);
        op.k_norm = data_of(k_norm);
        op.norm_whole = (q_norm && q_norm->size != dim) || (k_norm && k_norm->size != dim);
        op.qkv = p.buffer(qkv);
        op.q = p.buffer(q);
        op.out = p.buffer(out);
        op.want = want;
        p.add(op);
      }, "group"_a, "layer_in_group"_a, "heads"_a, "kv_heads"_a, "dim"_a, "scale"_a, "softcap"_a, "eps"_a, "window"_a,
         "rope"_a, "q_norm"_a.none(), "k_norm"_a.none(), "qkv"_a, "q"_a, "out"_a, "want"_a)
      .def("moe", [](Program& p, int router_logits, int x, std::vector<const Matrix*> gate,
                     std::vector<const Matrix*> up, std::vector<const Matrix*> down, int top_k,
                     bool normalize, int activation, int x_want, int hidden_want, int gathered, int hidden,
                     int partial, int out) {
        MoeOp op;
        op.router_logits = p.buffer(router_logits);
        op.x = p.buffer(x);
        op.experts = static_cast<int>(gate.size());
        op.gate = std::move(gate);
        op.up = std::move(up);
        op.down = std::move(down);
        op.top_k = top_k;
        op.normalize = normalize;
        op.activation = activation;
        op.x_want = x_want;
        op.hidden_want = hidden_want;
        op.gathered = p.buffer(gathered);
        op.hidden = p.buffer(hidden);
        op.partial = p.buffer(partial);
        op.out = p.buffer(out);
        p.add(std::move(op));
      })
      .def("capture", &Program::capture)
      .def("input", &Program::input)
      .def_prop_ro("input_width", &Program::input_width)
      .def_prop_ro("hidden_width", &Program::hidden_width)
      .def("seal", &Program::seal);
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.attr("PLAIN") = static_cast<int>(kPlain);
  m.attr("QUANT") = static_cast<int>(kQuant);
  m.attr("DENSE") = static_cast<int>(kDense);
  m.attr("BF16") = static_cast<int>(kBf16);
  m.attr("MAX_TREE_ROWS") = kMaxTreeRows;
  m.def("variants", [] { return names_of(available_kernels()); },
        "Kernel variants that this CPU can run, best first: (name, whether bf16 weights read bf16 activations).");
  m.def("test_variants", [] { return names_of(test_kernels()); },
        "Variants that emulate what this CPU may not have, slowly: for tests.");

  nb::class_<Team>(m, "Team").def(nb::init<int>()).def_prop_ro("size", &Team::size).def("wake", &Team::wake);
  nb::class_<Vector>(m, "Vector").def_ro("size", &Vector::size);
  nb::class_<Matrix>(m, "Matrix")
      .def_ro("outs", &Matrix::outs)
      .def_ro("k", &Matrix::k)
      .def_ro("nbytes", &Matrix::bytes);
  nb::class_<Store>(m, "Store")
      .def(nb::init<>())
      .def("matrix", [](Store& s) { return const_cast<Matrix*>(s.matrix(0, 0)); }, nb::rv_policy::reference_internal)
      .def("add_part", &add_part, "matrix"_a, "kind"_a, "rows"_a, "columns"_a, "group"_a, "scale_f32"_a, "data"_a,
           "scale"_a.none(), "minimum"_a.none(), "site"_a = -1)
      .def("vector", [](Store& s, nb::ndarray<const float, nb::ndim<1>, nb::c_contig> values) {
        return Vector{add_vector(s, values), static_cast<int>(values.size())};
      }, nb::keep_alive<0, 1>());
  auto cache = nb::class_<Cache>(m, "Cache");
  cache.def("move", [](Cache& c, int group, Ints sources, Ints targets) {
    if (sources.size() != targets.size()) throw std::invalid_argument("each source slot needs a target slot");
    c.move(group, sources.data(), targets.data(), static_cast<int>(sources.size()));
  });
  cache.def("__init__", [](Cache* self, const std::string& type,
                                                   const std::vector<std::tuple<int, int, int, int>>& groups) {
    const CacheType t = type == "f32" ? CacheType::F32 : type == "f16" ? CacheType::F16 : CacheType::BF16;
    std::vector<CacheShape> shapes;
    for (const auto& [layers, heads, dim, blocks] : groups)
      shapes.push_back({layers, heads, dim, blocks});
    new (self) Cache(t, shapes);
  });
  bind_adapters(m);
  auto program = nb::class_<Program>(m, "Program");
  program.def("__init__", [](Program* self, std::shared_ptr<Team> team, std::shared_ptr<Cache> cache,
                             std::shared_ptr<Adapters> adapters, const std::string& kernels, int max_rows) {
    new (self) Program(std::move(team), std::move(cache), std::move(adapters), kernels_named(kernels), max_rows);
  });
  bind_recording(program);
  program.def("run", &run, "token_ids"_a, "positions"_a, "row_starts"_a, "context_lens"_a, "slots"_a, "block_tables"_a,
              "selected"_a, "parents"_a.none(), "adapters"_a.none(), "logits"_a, "best"_a, "hidden"_a.none(),
              "inputs"_a.none())
      .def("profile", &Program::profile)
      .def("times", &Program::times);
  nb::class_<StreamBuffer>(m, "StreamBuffer")
      .def(nb::init<size_t>())
      .def_prop_ro("nbytes", &StreamBuffer::bytes)
      .def("read", &StreamBuffer::read, nb::call_guard<nb::gil_scoped_release>());
}
