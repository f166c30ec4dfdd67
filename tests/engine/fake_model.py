"""A deterministic model of hashes, whose every result depends on all it sees through the block tables.

A key is a hash of its token, its position and all keys that its row saw; logits are a pure function of the row's own
keys. So a block shared wrongly, given back too early, overwritten or read in the wrong order changes tokens. The
program also checks what every backend may rely on (see ``Batch``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from fake_drafters import TakesAll

from paceline.backends.base import MAX_TREE_ROWS, Batch, CacheSpec, StepOutput
from paceline.engine.config import EngineConfig, Machine
from paceline.engine.engine import Engine
from paceline.engine.messages import Request, SequenceDelta
from paceline.models.spec import LayerSpec, ModelSpec
from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import Sampler, SampleRow
from paceline.sampling.state import SamplingState

VOCAB = 40
EOS = 39
NAN_TOKEN = 38  # a row of this token gives NaN
MAX_CONTEXT = 512
MACHINE = Machine(free_bytes=2**30, cores=2)

_RNG = np.random.default_rng(7)
_WEIGHTS = _RNG.integers(1, 2**63, MAX_CONTEXT, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_LOGITS = torch.from_numpy(_RNG.normal(0.0, 2.5, (1024, VOCAB)).astype(np.float32))
_MASK = 2**64 - 1


def mix(*values: int) -> int:
    """A 64-bit hash of integers."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = ((state ^ value) * 0xBF58476D1CE4E5B9) & _MASK
        state ^= state >> 29
    return (state * 0x94D049BB133111EB) & _MASK


def digest(keys: np.ndarray, positions: np.ndarray) -> int:
    """A hash of keys that depends on where each stands."""
    return int((keys * _WEIGHTS[positions]).sum(dtype=np.uint64))


def row_keys(token: int, position: int, digests: Sequence[int], salt: int | None = None) -> list[int]:
    """The keys of one row, a group each. ``salt``: the weights of an adapter, which change every key."""
    adapter = () if salt is None else (salt,)
    return [mix(token, position, group, *digests, *adapter) for group in range(len(digests))]


def row_logits(token: int, keys: Sequence[int]) -> torch.Tensor:
    """Logits ``[VOCAB]`` of a row."""
    if token == NAN_TOKEN:
        return torch.full((VOCAB,), float("nan"))
    logits = _LOGITS[mix(*keys) % 1024].clone()
    logits[NAN_TOKEN] = -1e9
    return logits


def fake_spec(windows: Sequence[int] = (0,), context: int = 256) -> ModelSpec:
    return ModelSpec(
        family="fake", vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_heads=1, num_kv_heads=1, head_dim=8,
        layers=tuple(LayerSpec(window=window) for window in windows), norm_eps=1e-6, attention_scale=1.0,
        max_context=context, context_length=context,
    )  # fmt: skip


@dataclass
class FakeModel:
    spec: ModelSpec = field(default_factory=fake_spec)
    config: dict = field(default_factory=lambda: {"eos_token_id": EOS})
    weights_bytes: int = 0

    def build(self, ops: object) -> None:
        raise AssertionError("the fake backend does not record anything")


class FakeBackend:
    """Owns the keys: uint64 ``[blocks * block_size]`` a group, filled with garbage at first."""

    name = "fake"

    def __init__(self, max_adapters: int = 0) -> None:
        self.keys: list[np.ndarray] = []
        self.spec: CacheSpec | None = None
        self.max_rows_seen = 0
        self.poison: set[int] = set()  # more tokens whose rows give NaN
        self.num_moves = 0
        self.cache_dtype = "f16"
        self.max_adapters = max_adapters
        self.salts: dict[int, int] = {}  # of loaded adapters, by slot
        self.adapters_seen: list[int] = []  # different adapters of each step that had any

    def load_adapter(self, index: int, parts: Mapping[tuple[int, str], int]) -> None:
        assert 0 <= index < self.max_adapters
        self.salts[index] = parts[0, "q"]

    def unload_adapter(self, index: int) -> None:
        assert 0 <= index < self.max_adapters
        self.salts.pop(index, None)

    def allocate_cache(self, spec: CacheSpec, num_blocks: Sequence[int]) -> None:
        rng = np.random.default_rng(1)
        self.spec = spec
        self.keys = [rng.integers(0, 2**63, blocks * spec.block_size, dtype=np.uint64) for blocks in num_blocks]

    def compile(self, build: object, max_rows: int) -> FakeProgram:
        return FakeProgram(self, max_rows)

    def move(self, sources: np.ndarray, targets: np.ndarray) -> None:
        self.num_moves += sources.shape[1]
        for keys, *pairs in zip(self.keys, sources.tolist(), targets.tolist(), strict=True):
            for source, target in zip(*pairs, strict=True):
                assert source != target, "a move to where it is"
                keys[target] = keys[source]


class FakeProgram:
    def __init__(self, backend: FakeBackend, max_rows: int) -> None:
        self.backend = backend
        self.max_rows = max_rows

    def run(self, batch: Batch) -> StepOutput:
        self.backend.max_rows_seen = max(self.backend.max_rows_seen, batch.num_rows)
        self._check(batch)
        wanted = set(batch.logit_rows.tolist())
        logits = []
        for s in range(len(batch.context_lens)):
            for row in range(batch.row_starts[s], batch.row_starts[s + 1]):
                keys = self._row(batch, s, row)
                if row in wanted:
                    token = int(batch.token_ids[row])
                    logits.append(row_logits(NAN_TOKEN if token in self.backend.poison else token, keys))
        return StepOutput(torch.stack(logits) if logits else torch.empty(0, VOCAB))

    def _row(self, batch: Batch, s: int, row: int) -> list[int]:
        """Computes and stores one row's keys from those it sees; gives them."""
        spec, start, context = self.backend.spec, int(batch.row_starts[s]), int(batch.context_lens[s])
        position = int(batch.positions[row])
        rows = self._ancestors(batch, start, row)
        digests = []
        for group, window in enumerate(spec.group_windows):
            first = max(0, position - window + 1) if window else 0
            places = np.arange(first, context)
            blocks = batch.block_tables[group, s, places // spec.block_size]
            assert (blocks >= 0).all(), "a block that is still visible was given back"
            own = [other for other in rows if batch.positions[other] >= first]
            slots = np.concatenate((blocks * spec.block_size + places % spec.block_size, batch.slots[group, own]))
            seen = np.concatenate((places, batch.positions[own]))
            digests.append(digest(self.backend.keys[group][slots], seen))
        adapter = -1 if batch.adapters is None else int(batch.adapters[s])
        keys = row_keys(
            int(batch.token_ids[row]), position, digests, None if adapter < 0 else self.backend.salts[adapter]
        )
        for group, key in enumerate(keys):
            self.backend.keys[group][batch.slots[group, row]] = key
        return keys

    @staticmethod
    def _ancestors(batch: Batch, start: int, row: int) -> list[int]:
        if batch.parents is None:
            return list(range(start, row))
        found = []
        parent = int(batch.parents[row])
        while parent >= 0:
            found.append(start + parent)
            parent = int(batch.parents[start + parent])
        return sorted(found)

    def _check(self, batch: Batch) -> None:
        spec, size = self.backend.spec, self.backend.spec.block_size
        num_rows, starts = batch.num_rows, batch.row_starts
        arrays = [batch.token_ids, batch.positions, starts, batch.context_lens, batch.slots, batch.block_tables]
        for array in [*arrays, batch.logit_rows]:
            assert array.dtype == np.int32 and array.flags.c_contiguous
        assert 0 < num_rows <= self.max_rows, "the budget of rows was not respected"
        assert starts[0] == 0 and starts[-1] == num_rows and (np.diff(starts) > 0).all()
        assert batch.positions.shape == (num_rows,) and batch.slots.shape == (spec.num_groups, num_rows)
        assert batch.block_tables.shape[:2] == (spec.num_groups, len(starts) - 1)
        assert (np.diff(batch.logit_rows) > 0).all()
        if batch.adapters is not None:
            assert batch.adapters.dtype == np.int32 and batch.adapters.shape == batch.context_lens.shape
            different = set(batch.adapters.tolist()) - {-1}
            assert different, "a step of the base model alone says so"
            assert max(different) < self.backend.max_adapters
            self.backend.adapters_seen.append(len(different))
        for group in range(spec.num_groups):
            assert len(set(batch.slots[group].tolist())) == num_rows, "two rows write the same slot"
            written = {int(slot) // size for slot in batch.slots[group]}
            owners: dict[int, int] = {}
            for s, table in enumerate(batch.block_tables[group]):
                for block in set(table[table >= 0].tolist()) & written:
                    assert owners.setdefault(block, s) == s, "a block that is written is shared"
        for s, context in enumerate(batch.context_lens.tolist()):
            rows = np.arange(starts[s], starts[s + 1])
            places = context + rows - starts[s]
            for group in range(spec.num_groups):
                blocks = batch.block_tables[group, s, places // size]
                assert (blocks >= 0).all()
                assert (batch.slots[group, rows] == blocks * size + places % size).all()
            if batch.parents is None:
                assert (batch.positions[rows] == places).all()
            elif batch.parents[rows].tolist() != list(range(-1, len(rows) - 1)):
                assert len(rows) <= MAX_TREE_ROWS, "a tree with too many rows"


class Reference:
    """The same model without pages, batches or drafts: one sequence, a row at a time."""

    def __init__(self, spec: CacheSpec, salt: int | None = None) -> None:
        self.windows = spec.group_windows
        self.salt = salt
        self.keys: list[list[int]] = [[] for _ in self.windows]

    def next_logits(self, token: int) -> torch.Tensor:
        position = len(self.keys[0])
        digests = []
        for group, window in enumerate(self.windows):
            first = max(0, position - window + 1) if window else 0
            seen = np.array(self.keys[group][first:], dtype=np.uint64)
            digests.append(digest(seen, np.arange(first, position)))
        keys = row_keys(token, position, digests, self.salt)
        for group, key in enumerate(keys):
            self.keys[group].append(key)
        return row_logits(token, keys)


def reference_output(
    spec: ModelSpec, request: Request, index: int = 0, limit: int | None = None, salt: int | None = None
) -> list[int]:
    """The tokens that the request must give, by the simplest loop there is."""
    model, params = Reference(spec.cache_spec(), salt), request.params
    limit = spec.context_length if limit is None else limit
    end = limit if params.max_tokens is None else min(limit, len(request.prompt_ids) + params.max_tokens)
    state = SamplingState(params, prompt_ids=request.prompt_ids, vocab_size=VOCAB, eos_ids={EOS}, index=index)
    sampler = Sampler(VOCAB)
    for token in request.prompt_ids:
        logits = model.next_logits(token)
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    output: list[int] = []
    while True:
        token = sampler.sample(logits[None], [SampleRow(state)]).token_ids[0]
        output.append(token)
        if (token in stops and len(output) >= params.min_tokens) or len(request.prompt_ids) + len(output) >= end:
            return output
        state.extend([token])
        logits = model.next_logits(token)


def make_engine(
    windows: Sequence[int] = (0,), context: int = 256, drafter: object = None, **config: object
) -> tuple[Engine, FakeBackend]:
    """An engine on the fake model; ``config``: fields of ``EngineConfig``."""
    return make_engine_with(FakeBackend(), windows, context, drafter, None, **config)


def make_engine_with(
    backend: FakeBackend,
    windows: Sequence[int] = (0,),
    context: int = 256,
    drafter: object = None,
    read_adapter: Callable[[Path], object] | None = None,
    **config: object,
) -> tuple[Engine, FakeBackend]:
    """``make_engine`` on a backend of the test's choice, with adapters that ``read_adapter`` reads."""
    controller = None if drafter is None else TakesAll(drafter)
    engine = Engine(
        FakeModel(fake_spec(windows, context)),
        backend,
        EngineConfig(**config),
        controller=controller,
        limits=MACHINE,
        read_adapter=read_adapter,
    )
    return engine, backend


_REQUEST_FIELDS = ("priority", "latency_class", "outputs", "finished", "adapter", "arrival_time")


def make_request(request_id: str, prompt: Sequence[int], **params: object) -> Request:
    """A request; keywords that are not sampling parameters go to the request."""
    own = {name: params.pop(name) for name in _REQUEST_FIELDS if name in params}
    own.setdefault("arrival_time", time.time())
    params.setdefault("seed", 1)
    params.setdefault("temperature", 0.0)
    return Request(request_id=request_id, prompt_ids=list(prompt), params=SamplingParams(**params), **own)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, NAN_TOKEN, length).tolist()


@dataclass
class Outcome:
    """All deltas of one sequence put together."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    deltas: list[SequenceDelta] = field(default_factory=list)


def collect(outcomes: dict[tuple[str, int], Outcome], deltas: Sequence[SequenceDelta]) -> None:
    for delta in deltas:
        outcome = outcomes.setdefault((delta.request_id, delta.index), Outcome())
        assert outcome.finish_reason is None, "a delta came after the end"
        outcome.token_ids += delta.token_ids
        outcome.finish_reason = delta.finish_reason
        outcome.deltas.append(delta)


def drain(engine: Engine, check: bool = True, max_steps: int = 5000) -> dict[tuple[str, int], Outcome]:
    """Steps until there is no work."""
    outcomes: dict[tuple[str, int], Outcome] = {}
    for _ in range(max_steps):
        if not engine.has_work():
            return outcomes
        collect(outcomes, engine.step().deltas)
        if check:
            engine.check_integrity()
    raise AssertionError(f"work is left after {max_steps} steps")


def serve(engine: Engine, *requests: Request) -> dict[tuple[str, int], Outcome]:
    """Adds all requests and steps until they end."""
    for request in requests:
        engine.add(request)
    return drain(engine)
