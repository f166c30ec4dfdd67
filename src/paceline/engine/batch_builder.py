"""From the plan of a step to its flat arrays."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from paceline.backends.base import Batch, IntArray
from paceline.engine.sequence import Sequence
from paceline.kv.cache import KVCache
from paceline.kv.placement import Placer
from paceline.speculation.draft import Draft, depths_of


class BatchBuilder:
    """Builds each step's ``Batch`` from planned sequences: one slice copy a sequence, the rest is array arithmetic.

    The arrays of a batch are views of memory that the next ``build`` writes again.
    """

    def __init__(self, cache: KVCache, max_rows: int) -> None:
        self._placer = Placer(cache, max_rows)
        self._token_ids: IntArray = np.zeros(max_rows, dtype=np.int32)
        self._count: IntArray = np.arange(max_rows, dtype=np.int32)

    def build(self, planned: Seq[Sequence]) -> Batch:
        """The planned sequences' known rows and draft rows, in their order."""
        token_ids = self._token_ids
        starts, contexts, table_rows = [0], [], []
        logit_rows: list[int] = []
        adapters: list[int] = []
        adapted = False
        num_rows = longest = 0
        trees = False
        for sequence in planned:
            start, computed, rows = num_rows, sequence.computed, sequence.rows
            num_rows += rows
            token_ids[start:num_rows] = sequence.token_ids[computed : computed + rows]
            if sequence.wants_prompt_logprobs:
                first, last = prompt_logprob_range(sequence)
                logit_rows.extend(range(start + first - computed, start + last - computed))
            if sequence.completes:
                logit_rows.append(num_rows - 1)
            if sequence.draft_rows:
                draft, drafts = sequence.draft, sequence.draft_rows
                assert draft is not None and sequence.completes
                token_ids[num_rows : num_rows + drafts] = draft.token_ids
                logit_rows.extend(range(num_rows, num_rows + drafts))
                num_rows += drafts
                trees = trees or draft.parents is not None
            starts.append(num_rows)
            contexts.append(computed)
            table_rows.append(sequence.table.row)
            version = sequence.version
            if version is None:
                adapters.append(-1)
            else:
                assert version.resident and version.slot is not None
                adapters.append(version.slot)
                adapted = True
            longest = max(longest, computed + num_rows - start)
        row_starts = np.array(starts, dtype=np.int32)
        context_lens = np.array(contexts, dtype=np.int32)
        positions, slots, tables = self._placer.place(row_starts, context_lens, table_rows, longest)
        parents = self._parents(planned, row_starts, context_lens, positions) if trees else None
        return Batch(
            token_ids=token_ids[:num_rows],
            positions=positions,
            row_starts=row_starts,
            context_lens=context_lens,
            slots=slots,
            block_tables=tables,
            logit_rows=np.array(logit_rows, dtype=np.int32),
            parents=parents,
            adapters=np.array(adapters, dtype=np.int32) if adapted else None,
        )

    def _parents(
        self, planned: Seq[Sequence], row_starts: IntArray, context_lens: IntArray, positions: IntArray
    ) -> IntArray:
        """Parents ``[T]`` when a draft of the step is a tree; corrects its ``positions`` to context plus depth."""
        parents = self._count[: len(positions)] - np.repeat(row_starts[:-1], np.diff(row_starts)) - 1
        for start, sequence in zip(row_starts[:-1].tolist(), planned, strict=True):
            draft = sequence.draft
            if sequence.draft_rows and draft is not None and draft.parents is not None:
                first, rows = start + sequence.rows, sequence.draft_rows
                own = np.array(draft.parents, dtype=np.int32)
                parents[first : first + rows] = own + sequence.rows
                positions[first : first + rows] = np.array(depths(draft)) + (sequence.length - 1)
        return parents


def depths(draft: Draft) -> list[int]:
    """Depth of each draft token: 1 for a child of the sequence's last token."""
    if draft.parents is None:
        return list(range(1, len(draft) + 1))
    return [depth + 1 for depth in depths_of(draft.parents)]


def prompt_logprob_range(sequence: Sequence) -> tuple[int, int]:
    """Positions ``first:last`` planned in this step whose logits give prompt logprobs that are still missing. The row
    at position ``p`` predicts prompt token ``p + 1``."""
    first = max(sequence.computed, len(sequence.prompt_logprobs) - 1)
    last = min(sequence.computed + sequence.rows, sequence.prompt_length - 1)
    return first, max(first, last)
