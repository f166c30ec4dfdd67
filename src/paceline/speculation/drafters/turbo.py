"""The ``turbo`` drafter: the project's own trained speculator, which predicts a whole block in one pass.

The speculator (``turbo_model.py``) is one causal decoder layer. It reads the known tokens, each with the target's
hidden states of the token before (those from which it came). Behind the last one stands a row for each further draft
position: that token once more, its states changed by a learned mask. So one program does both, and a call for one
sequence usually has as many rows as the last step brought tokens, and ``positions - 1`` more.

Rows of known tokens are computed when a draft is wanted, not when their states come: a request that never drafts from
here pays for copying them only. A draft is the tree of the likeliest paths through the block
(``csrc/speculation/block_tree.h``), also for sampled requests: then it is verified by comparing, and the text for a
seed is the same as without it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from paceline import _suffix
from paceline.backends.base import Backend, Batch, CacheDtype, FloatArray, IntArray
from paceline.kv.cache import KVCache
from paceline.kv.placement import Placer
from paceline.kv.sizing import blocks_per_group, cache_bytes
from paceline.speculation.draft import Draft
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.drafters.turbo_cache import StateTrack, StateTracks
from paceline.speculation.drafters.turbo_model import SpeculatorModel

MAX_ROWS = 384  # of one pass
CATCH_UP_ROWS = 320  # of a pass, for sequences with more to compute than ``LEVEL_ROWS``
LEVEL_ROWS = 24  # about the most tokens that a step adds
MAX_NODES = 16  # of a tree


@dataclass(slots=True)
class _Run:
    """Computes ``known`` tokens of one sequence and proposes ``wanted`` of them, predicted by ``depth`` rows (0: it is
    not level yet)."""

    place: int  # in the call
    sequence: SequenceView
    track: StateTrack
    known: int
    wanted: int
    depth: int

    @property
    def rows(self) -> int:
        return self.known + max(0, self.depth - 1)


class TurboDrafter:
    """Implements ``Drafter``.

    ``backend`` holds nothing but ``model`` (see ``Backend.sibling``). ``max_sequences``: whose states are kept at a
    time; more may come, the least recently used give way. ``max_tokens``: of the longest sequence.
    """

    name = "turbo"
    cheap = False

    def __init__(
        self,
        model: SpeculatorModel,
        backend: Backend,
        max_sequences: int,
        max_tokens: int,
        *,
        max_rows: int = MAX_ROWS,
        catch_up_rows: int = CATCH_UP_ROWS,
        cache_dtype: CacheDtype = "f16",
    ) -> None:
        config = model.config
        assert max_rows >= LEVEL_ROWS + config.positions and catch_up_rows > 0 and max_sequences > 0
        self.layers = config.layers
        self.positions = config.positions
        self.vocab_size = config.vocab_size
        self.max_rows = max_rows
        self.catch_up_rows = catch_up_rows
        self.model = model
        self.cache_spec = config.cache_spec(cache_dtype)
        tokens = max_tokens + config.positions
        # Room for every sequence's window, and for the rows of a step on top: nobody ever waits for a block.
        spare = max_rows + 2 * self.cache_spec.block_size * max_sequences
        self.num_blocks = blocks_per_group(self.cache_spec, max_sequences * tokens + spare, spare, max_sequences)
        backend.allocate_cache(self.cache_spec, self.num_blocks)
        cache = KVCache(self.cache_spec, self.num_blocks, max_sequences, tokens, prefix_cache=False)
        self._tracks = StateTracks(cache, config.layers, config.state_width, config.window)
        self._placer = Placer(cache, max_rows)
        self._program = backend.compile(model.build, max_rows)
        self._token_ids: IntArray = np.empty(max_rows, dtype=np.int32)
        self._inputs: FloatArray = np.empty((max_rows, config.state_width), dtype=np.float32)

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        """Trees of at most ``longest`` tokens. None for a sequence whose states have not all come, that is still
        being caught up with, or for which this pass has no rows left."""
        drafts: list[Draft | None] = [None] * len(sequences)
        runs = self._plan(sequences, lengths)
        if runs:
            logits = self._compute(runs)
            drafting = [run for run in runs if run.wanted]
            for run, draft in zip(drafting, self._grow(drafting, logits), strict=True):
                drafts[run.place] = draft
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        self._tracks.observe(progress)

    def forget(self, sequence: SequenceView) -> None:
        self._tracks.drop(sequence.key)

    def reset(self) -> None:
        """Nothing outlives its sequence."""

    def clear(self) -> None:
        """Forgets all sequences, also those that go on: their states will come again."""
        for key in list(self._tracks.tracks):
            self._tracks.drop(key)

    @property
    def longest(self) -> int:
        """Most tokens of a draft."""
        return MAX_NODES

    @property
    def nbytes(self) -> int:
        """Of its weights, and of its cache when every sequence that it is made for has a whole window."""
        return self.model.nbytes + cache_bytes(self.cache_spec, self.num_blocks)

    def check_integrity(self) -> None:
        """Asserts that tables, reference counts and free lists agree."""
        self._tracks.cache.check_integrity(track.table for track in self._tracks.tracks.values())

    def _plan(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[_Run]:
        """Who computes how much, in the caller's order; those that are far behind share ``catch_up_rows``."""
        rows_left, catch_up_left = self.max_rows, self.catch_up_rows
        runs = []
        for i, sequence in enumerate(sequences):
            track = self._tracks.get(sequence)
            if track is None:
                continue
            if track.num_waiting == 0:
                track.repeat()
            waiting, wanted = track.num_waiting, min(lengths[i], self.longest)
            far = waiting > LEVEL_ROWS
            known = min(waiting, catch_up_left, rows_left) if far else waiting
            if known < waiting:
                wanted = 0
            run = _Run(i, sequence, track, known, wanted, min(wanted, self.positions))
            if known == 0 or run.rows > rows_left:
                continue
            granted = self._tracks.cache.extend(track.table, track.computed + run.rows)
            assert granted, "there are blocks for every window"
            rows_left -= run.rows
            catch_up_left -= known if far else 0
            runs.append(run)
        return runs

    def _grow(self, runs: Seq[_Run], logits: FloatArray) -> list[Draft | None]:
        """Trees from the logits of their blocks."""
        if not runs:
            return []
        model = self.model
        most = np.array([run.wanted for run in runs], dtype=np.int32)
        depths = np.array([run.depth for run in runs], dtype=np.int32)
        before = model.indices[[int(run.sequence.token_ids[-1]) for run in runs]]
        room, sizes = int(most.sum()), np.empty(len(runs), dtype=np.int32)
        chosen, parents = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int32)
        confidence = np.empty(room, dtype=np.float32)
        _suffix.grow_trees(logits, depths, most, before, model.markov, chosen, parents, confidence, sizes)
        drafts: list[Draft | None] = []
        first = 0
        for run, size in zip(runs, sizes.tolist(), strict=True):
            nodes, first = slice(first, first + size), first + run.wanted
            tree = tuple(parents[nodes].tolist())
            drafts.append(
                Draft(
                    tuple(model.tokens[chosen[nodes]].tolist()),
                    self.name,
                    parents=None if tree == tuple(range(-1, size - 1)) else tree,
                    confidence=tuple(confidence[nodes].tolist()),
                )
                if size
                else None
            )
        return drafts

    def _compute(self, runs: Seq[_Run]) -> FloatArray:
        """One pass; logits ``[draft rows, vocab_size + 1]``, those of one run side by side."""
        masks, scale = self.model.masks, self.model.state_scale
        starts, contexts, table_rows = [0], [], []
        logit_rows: list[int] = []
        end = longest = 0
        for run in runs:
            track, known = run.track, run.known
            context, start, middle, end = track.computed, end, end + known, end + run.rows
            position = track.start + context
            self._token_ids[start:middle] = run.sequence.token_ids[position : position + known]
            np.multiply(track.take(known), scale, out=self._inputs[start:middle])
            if run.wanted:
                self._token_ids[middle:end] = self._token_ids[middle - 1]
                np.add(masks[: end - middle], self._inputs[middle - 1], out=self._inputs[middle:end])
                logit_rows.extend(range(middle - 1, end))
            starts.append(end)
            contexts.append(context)
            table_rows.append(track.table.row)
            longest = max(longest, context + run.rows)
        row_starts, context_lens = np.array(starts, dtype=np.int32), np.array(contexts, dtype=np.int32)
        positions, slots, tables = self._placer.place(row_starts, context_lens, table_rows, longest)
        batch = Batch(
            token_ids=self._token_ids[:end],
            positions=positions,
            row_starts=row_starts,
            context_lens=context_lens,
            slots=slots,
            block_tables=tables,
            logit_rows=np.array(logit_rows, dtype=np.int32),
            inputs=self._inputs[:end],
        )
        logits: FloatArray = self._program.run(batch).logits.cpu().numpy()
        for run in runs:
            self._tracks.cache.advance(run.track.table, run.sequence.token_ids, run.track.computed)
        return logits
