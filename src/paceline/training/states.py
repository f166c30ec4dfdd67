"""Hidden states and target distributions of texts, computed by the engine's own programs into memory-mapped files.

They come from the very kernels and weights that the speculator will be fed by, so quantization is part of the lesson.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from paceline.backends.base import Backend, Batch, FloatArray, IntArray
from paceline.backends.lora import LoraPart, Site
from paceline.errors import InvalidRequestError
from paceline.kv.cache import KVCache
from paceline.kv.placement import Placer
from paceline.kv.sizing import blocks_per_group
from paceline.models.loading import LoadedModel
from paceline.training.regenerate import Text

ROWS = 256  # of a step


class StateReader:
    """Runs texts through the target, one at a time. ``backend`` holds nothing but ``model``: its cache is made here,
    and ``adapter`` (see ``read_adapter``) goes to its first slot; None: the base model's own states."""

    def __init__(
        self,
        model: LoadedModel,
        backend: Backend,
        layers: Sequence[int],
        max_tokens: int,
        adapter: Mapping[Site, LoraPart] | None = None,
    ) -> None:
        spec = model.spec.cache_spec()
        blocks = blocks_per_group(spec, max_tokens, ROWS, 1)
        backend.allocate_cache(spec, blocks)
        self.max_tokens = max_tokens
        self._cache = KVCache(spec, blocks, 1, max_tokens, prefix_cache=False)
        self._placer = Placer(self._cache, ROWS)
        self._program = backend.compile(model.build_with(layers), ROWS)
        self._adapters: IntArray | None = None
        if adapter is not None:
            backend.load_adapter(0, adapter)
            self._adapters = np.zeros(1, dtype=np.int32)

    def read(self, token_ids: IntArray, first_logits: int, top: int) -> tuple[FloatArray, IntArray, FloatArray]:
        """Hidden states ``[n, width]`` of all ``n`` tokens but the last, and of those from ``first_logits`` on the
        ``top`` likeliest next tokens with their log-probabilities: ids and values ``[n - first_logits, top]``."""
        table = self._cache.new_table()
        self._cache.attach(table, token_ids, 0)
        states, ids, logprobs = [], [], []
        count = len(token_ids) - 1
        for start in range(0, count, ROWS):
            end = min(start + ROWS, count)
            if not self._cache.extend(table, end):
                raise InvalidRequestError(f"a text of {count + 1} tokens is longer than the cache made for it")
            wanted = np.arange(max(first_logits, start), end, dtype=np.int32) - np.int32(start)
            output = self._program.run(self._batch(table.row, token_ids, start, end, wanted))
            assert output.hidden is not None
            states.append(output.hidden.cpu().numpy().copy())
            if len(wanted):
                best = output.logits.log_softmax(dim=-1).topk(top, dim=-1)
                ids.append(best.indices.cpu().numpy().astype(np.int32))
                logprobs.append(best.values.cpu().numpy())
            self._cache.advance(table, token_ids, end)
        self._cache.free(table)
        return np.concatenate(states), np.concatenate(ids), np.concatenate(logprobs)

    def _batch(self, row: int, token_ids: IntArray, start: int, end: int, wanted: IntArray) -> Batch:
        row_starts = np.array([0, end - start], dtype=np.int32)
        contexts = np.array([start], dtype=np.int32)
        positions, slots, tables = self._placer.place(row_starts, contexts, [row], end)
        return Batch(
            token_ids[start:end], positions, row_starts, contexts, slots, tables, wanted, adapters=self._adapters
        )


@dataclass(frozen=True, slots=True)
class StateFiles:
    """What lies in a folder of collected states. ``window``: context kept before a text's output."""

    layers: tuple[int, ...]
    width: int
    top: int
    window: int
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """One text, as views of the files. ``states[i]`` is of token ``i``; ``top_ids[j]`` and ``top_logprobs[j]`` are the
    target's distribution of token ``first + j``, where ``first`` is the place of the first output token."""

    token_ids: npt.NDArray[np.int32]  # [n]
    states: npt.NDArray[np.float16]  # [n, width]; the last row is zero
    first: int
    top_ids: npt.NDArray[np.int32]  # [n - first, top]
    top_logprobs: npt.NDArray[np.float16]


class StateSet:
    """Lessons in memory-mapped files: only what is being trained on needs memory.

    Of ``folder`` and those of ``more``, one after the other. ``layers``: read the states of these only (None: all).
    Raises ``InvalidRequestError`` for a folder without states, layers that were not kept, or folders that differ.
    """

    def __init__(self, folder: Path, *more: Path, layers: Sequence[int] | None = None) -> None:
        self._parts = [_Folder(path) for path in (folder, *more)]
        first = self._parts[0].files
        for part, path in zip(self._parts, (folder, *more), strict=True):
            if (part.files.layers, part.files.top) != (first.layers, first.top):
                raise InvalidRequestError(
                    f"{path} has layers {list(part.files.layers)} and {part.files.top} likeliest tokens, {folder} has "
                    f"{list(first.layers)} and {first.top}: collect all with the same settings"
                )
        chosen = first.layers if layers is None else tuple(sorted(layers))
        if not chosen or not set(chosen) <= set(first.layers):
            raise InvalidRequestError(f"{folder} has states of layers {list(first.layers)}, wanted are {list(chosen)}")
        hidden = first.width // len(first.layers)
        places = [first.layers.index(layer) * hidden for layer in chosen]
        # A slice wherever it is possible: it is a view, and other selections are copies.
        self._columns: list[slice] = [slice(place, place + hidden) for place in places]
        if chosen == first.layers:
            self._columns = [slice(None)]
        self._starts = np.concatenate(([0], np.cumsum([part.files.texts for part in self._parts])))
        tokens = sum(part.files.tokens for part in self._parts)
        self.files = replace(
            first, layers=chosen, width=hidden * len(chosen), texts=int(self._starts[-1]), tokens=tokens
        )

    def __len__(self) -> int:
        return self.files.texts

    def __getitem__(self, text: int) -> Lesson:
        part = int(np.searchsorted(self._starts, text, side="right")) - 1
        lesson = self._parts[part].lesson(text - int(self._starts[part]))
        columns = [lesson.states[:, column] for column in self._columns]
        return replace(lesson, states=columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1))

    def output_counts(self) -> npt.NDArray[np.int64]:
        """Output tokens of each text."""
        return np.concatenate([part.index[:, 1] - part.index[:, 2] for part in self._parts])


class _Folder:
    """What ``collect`` wrote."""

    def __init__(self, folder: Path) -> None:
        try:
            raw = json.loads((folder / "states.json").read_text())
        except OSError as error:
            raise InvalidRequestError(f"{folder} holds no collected states: {error}") from error
        self.files = StateFiles(**{**raw, "layers": tuple(raw["layers"])})
        files, self.index = self.files, np.load(folder / "index.npy")  # [texts, 3]: start, tokens, first
        self._starts = np.concatenate(([0], np.cumsum(self.index[:, 1] - self.index[:, 2])))
        outputs = int(self._starts[-1])

        def mapped(name: str, dtype: str, shape: tuple[int, ...]) -> np.memmap:
            return np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r", shape=shape)

        self._tokens = mapped("tokens", "<i4", (files.tokens,))
        self._states = mapped("states", "<f2", (files.tokens, files.width))
        self._top_ids = mapped("top_ids", "<i4", (outputs, files.top))
        self._top_logprobs = mapped("top_logprobs", "<f2", (outputs, files.top))

    def lesson(self, text: int) -> Lesson:
        start, count, first = (int(value) for value in self.index[text])
        rows, outputs = slice(start, start + count), slice(int(self._starts[text]), int(self._starts[text + 1]))
        return Lesson(
            self._tokens[rows], self._states[rows], first, self._top_ids[outputs], self._top_logprobs[outputs]
        )


def collect(
    reader: StateReader,
    texts: Sequence[Text],
    folder: Path,
    layers: Sequence[int],
    *,
    window: int,
    top: int = 16,
    max_bytes: int = 4 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> StateSet:
    """Writes the states of ``texts`` to ``folder``, as many texts as ``max_bytes`` hold (2 bytes a number). Of a prompt
    only the last ``window`` tokens are kept. Texts longer than the reader's cache are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    index, used, tokens, width = [], 0, 0, 0
    names = ("tokens", "states", "top_ids", "top_logprobs")
    handles = {name: (folder / f"{name}.bin").open("wb") for name in names}
    try:
        for done, text in enumerate(texts, 1):
            ids = np.array(text.token_ids, dtype=np.int32)
            prompt = len(text.prompt_ids)
            if len(ids) > reader.max_tokens or not text.output_ids or not prompt:
                continue
            states, top_ids, logprobs = reader.read(ids, prompt - 1, top)
            width = states.shape[1]
            skip = max(0, prompt - window)
            kept = np.concatenate((states, np.zeros((1, width), dtype=states.dtype)))[skip:]
            limit = np.finfo(np.float16).max
            arrays = {
                "tokens": ids[skip:].astype("<i4"),
                "states": np.clip(kept, -limit, limit).astype("<f2"),
                "top_ids": top_ids.astype("<i4"),
                "top_logprobs": np.maximum(logprobs, -limit).astype("<f2"),
            }
            size = sum(array.nbytes for array in arrays.values())
            if used + size > max_bytes:
                break
            for name, array in arrays.items():
                handles[name].write(array.tobytes())
            index.append((tokens, len(ids) - skip, prompt - skip))
            used, tokens = used + size, tokens + len(ids) - skip
            if progress is not None:
                progress(done, len(texts))
    finally:
        for handle in handles.values():
            handle.close()
    if not index:
        raise InvalidRequestError(
            f"no text could be kept: {len(texts)} were given, at most {reader.max_tokens} tokens and {max_bytes} bytes "
            "are allowed"
        )
    np.save(folder / "index.npy", np.array(index, dtype=np.int64))
    files = StateFiles(tuple(sorted(layers)), width, top, window, len(index), tokens)
    (folder / "states.json").write_text(json.dumps(asdict(files)))
    return StateSet(folder)


def state_scale(states: StateSet, limit: int = 4096) -> torch.Tensor:
    """One over the usual size of each column of hidden states, over about ``limit`` tokens: residual streams have
    columns that are hundreds of times larger than others, beside which int8 would lose those. Usual is the median, for
    the first token of a text has a few columns that are larger still, and alone."""
    rows: list[torch.Tensor] = []
    for text in range(len(states)):
        rows.append(torch.from_numpy(np.array(states[text].states[:-1])).float())
        if sum(map(len, rows)) >= limit:
            break
    usual = torch.cat(rows).abs().median(dim=0).values * 1.4826  # of a normal distribution: its standard deviation
    return 1.0 / usual.clamp(min=1e-6)
