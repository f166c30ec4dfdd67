"""The ``model`` drafter: a small language model with the target's vocabulary, on the same backend, with its own cache.

Drafting is one pass of the small model for each draft token, all sequences together; the first pass also computes the
known tokens that are new since the last call. Cost: ``lengths`` passes of a row a sequence.

*Catching up.* A sequence that the small model has not seen yet (its prompt), or has not seen for long, is read in
chunks: of all sequences that are more than ``LEVEL_ROWS`` tokens behind, at most ``catch_up_rows`` tokens a call are
computed, first come first served, and they get no draft until they are level. With the default of 32 such a call costs
about as much as drafting eight tokens, and a prompt of 2,000 tokens takes 63 of them; reading it at once would hold up
a step of all sequences for the time of 2,000 rows. Prompts are not read while the target reads them: a request whose
drafts never come from here pays nothing, and nobody's first token waits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paceline.backends.base import Backend, Batch, CacheDtype, IntArray
from paceline.kv.cache import KVCache, capacity_tokens
from paceline.kv.placement import Placer
from paceline.models.loading import LoadedModel
from paceline.sampling.truncation import Truncator
from paceline.speculation.draft import Distribution, Draft
from paceline.speculation.draft_sampling import Draw, draft_distribution, draw_independently, likeliest
from paceline.speculation.drafters.base import Progress, SequenceView
from paceline.speculation.drafters.model_cache import DraftCache, Track

MAX_ROWS = 256  # of one pass
CATCH_UP_ROWS = 32  # of a pass, for sequences that are far behind
LEVEL_ROWS = 16  # a sequence with no more tokens to compute is not far behind: about the most that a step adds
HOPELESS = 0.02  # a greedy path less likely than that is not drafted further
WARM_SHARE = 4  # of the cache, a fourth may be memories of sequences that are gone


@dataclass(slots=True)
class _Run:
    """What one call does for one sequence: computes ``rows`` known tokens, then drafts ``wanted`` tokens."""

    place: int  # in the call
    sequence: SequenceView
    track: Track
    rows: int
    wanted: int
    token_ids: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    likelihood: float = 1.0  # of the path so far, for greedy requests

    @property
    def next_position(self) -> int:
        """Of the next draft token."""
        return self.sequence.length + len(self.token_ids)

    def draft(self, name: str) -> Draft | None:
        if not self.token_ids:
            return None
        return Draft(
            tuple(self.token_ids),
            name,
            confidence=tuple(self.confidence),
            distributions=tuple(self.distributions) or None,
        )


class ModelDrafter:
    """Implements ``Drafter``.

    ``backend`` holds nothing but ``model`` (see ``Backend.sibling``). ``num_blocks``: of each group of its cache.
    ``max_sequences``: sequences whose keys are held at a time; more may come, the least recently used give way.
    ``vocab_size``: ids that the target knows; the model's logits of others are left out. ``draw`` chooses the tokens of
    sampled requests.
    """

    name = "model"
    cheap = False
    layers: tuple[int, ...] = ()

    def __init__(
        self,
        model: LoadedModel,
        backend: Backend,
        num_blocks: Seq[int],
        max_sequences: int,
        *,
        vocab_size: int | None = None,
        max_rows: int = MAX_ROWS,
        catch_up_rows: int = CATCH_UP_ROWS,
        cache_dtype: CacheDtype = "f16",
        draw: Draw = draw_independently,
    ) -> None:
        assert max_rows > 0 and catch_up_rows > 0 and max_sequences > 0
        spec = model.spec.cache_spec(cache_dtype)
        self.max_tokens = min(model.spec.context_length, capacity_tokens(spec, num_blocks))
        self.max_rows = max_rows
        self.catch_up_rows = catch_up_rows
        backend.allocate_cache(spec, num_blocks)
        warm = [max(1, blocks // WARM_SHARE) for blocks in num_blocks]
        cache = KVCache(spec, num_blocks, max_sequences, self.max_tokens, warm_blocks=warm)
        self._cache = DraftCache(cache)
        self._placer = Placer(cache, max_rows)
        self._program = backend.compile(model.build, max_rows)
        self._known_ids = model.spec.vocab_size  # ids that the model can read
        self._vocab_size = min(model.spec.vocab_size, vocab_size or model.spec.vocab_size)  # and write
        self._truncator = Truncator(self._vocab_size)
        self._draw = draw

    def propose(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[Draft | None]:
        """Chains. None for a sequence that is still being caught up with, that is longer than the model's context or
        cache, or for which there is no block now: never an error."""
        runs = self._plan(sequences, lengths)
        drafts: list[Draft | None] = [None] * len(sequences)
        if not runs:
            return drafts
        logits = self._compute_known(runs)
        active = [run for run in runs if run.wanted > 0]
        while active:
            active = [run for run, row in zip(active, logits, strict=True) if self._add_token(run, row)]
            if active:
                logits = self._compute_drafted(active)
        for run in runs:
            drafts[run.place] = run.draft(self.name)
        return drafts

    def observe(self, progress: Seq[Progress]) -> None:
        """Nothing: what became of a draft is seen in the sequence's tokens when it is next asked for."""

    def forget(self, sequence: SequenceView) -> None:
        self._cache.drop(sequence.key)

    def reset(self) -> None:
        """Forgets remembered prefixes."""
        self._cache.cache.clear_prefix_cache()

    def pending(self, sequence: SequenceView) -> int:
        """Tokens to compute before the sequence's first draft token; above ``LEVEL_ROWS``, calls for it give no draft
        until it is caught up with. For who weighs the cost of asking."""
        return self._cache.pending(sequence)

    def check_integrity(self) -> None:
        """Asserts that tables, reference counts and free lists agree."""
        tracks = self._cache.tracks.values()
        self._cache.cache.check_integrity(track.table for track in tracks)

    def _plan(self, sequences: Seq[SequenceView], lengths: Seq[int]) -> list[_Run]:
        """Who computes how much: level sequences first, in the caller's order, then those behind. Known tokens of all
        have precedence over anybody's drafts; for them, blocks may be taken from those who come later."""
        behind = [self._cache.pending(sequence) > LEVEL_ROWS for sequence in sequences]
        order = sorted(range(len(sequences)), key=behind.__getitem__)
        self._cache.touch([sequences[i].key for i in order])
        present = {sequence.key for sequence in sequences}
        served: set[tuple[str, int]] = set()
        reading: set[str] = set()  # requests of which a prompt is being computed: their other sequences will share it
        rows_left, catch_up_left = self.max_rows, self.catch_up_rows
        runs = []
        for i in order:
            sequence = sequences[i]
            served.add(sequence.key)
            may_start = sequence.key[0] not in reading and (catch_up_left > 0 or not behind[i])
            track = self._track(sequence, served, may_start)
            if track is None:
                continue
            pending = sequence.length - track.computed
            far = pending > LEVEL_ROWS
            rows = min(pending, rows_left, catch_up_left if far else rows_left)
            if rows == 0 or not self._cache.reserve(track, track.computed + rows, served):
                continue
            rows_left -= rows
            catch_up_left -= rows if far else 0
            runs.append(_Run(i, sequence, track, rows, wanted=lengths[i] if rows == pending else 0))
            if self._cache.new_prompt_blocks(track, sequence):
                reading.add(sequence.key[0])
        for run in runs:
            if run.wanted > 0:
                run.wanted = self._reserve_drafts(run, present)
        return runs

    def _track(self, sequence: SequenceView, served: set[tuple[str, int]], may_start: bool) -> Track | None:
        """The sequence's track, if the model can read the sequence."""
        track = self._cache.tracks.get(sequence.key)
        new = sequence.token_ids[0 if track is None else track.computed :]
        if sequence.length > self.max_tokens or int(new.max()) >= self._known_ids:
            self._cache.drop(sequence.key)
            return None
        return self._cache.start(sequence, served) if track is None and may_start else track

    def _reserve_drafts(self, run: _Run, present: set[tuple[str, int]]) -> int:
        """Slots for drafts, all but the last of which are computed; takes blocks from sequences outside of this call
        only, and gives how many tokens can be drafted: at least 1."""
        track, known = run.track, run.sequence.length
        wanted = min(run.wanted, self.max_tokens - known + 1)
        if not self._cache.reserve(track, known + wanted - 1, present):
            wanted = self._cache.cache.room(track.table) - known + 1
            granted = self._cache.reserve(track, known + wanted - 1, present)
            assert granted
        return wanted

    def _compute_known(self, runs: Seq[_Run]) -> npt.NDArray[np.float32]:
        """Computes the planned known tokens; logits of the last ones of those that draft."""
        tokens = [run.sequence.token_ids[run.track.computed : run.track.computed + run.rows] for run in runs]
        contexts = [run.track.computed for run in runs]
        logits = self._compute(runs, tokens, contexts, [run.wanted > 0 for run in runs])
        for run in runs:
            self._cache.advance(run.track, run.sequence, run.track.computed + run.rows)
        return logits

    def _compute_drafted(self, runs: Seq[_Run]) -> npt.NDArray[np.float32]:
        """Computes each run's last draft token, and gives logits of all."""
        tokens = [np.array(run.token_ids[-1:], dtype=np.int32) for run in runs]
        logits = self._compute(runs, tokens, [run.next_position - 1 for run in runs], [True] * len(runs))
        for run in runs:
            run.track.drafted.append(run.token_ids[-1])
        return logits

    def _compute(
        self, runs: Seq[_Run], tokens: Seq[IntArray], contexts: Seq[int], wanted: Seq[bool]
    ) -> npt.NDArray[np.float32]:
        """One pass: each run's ``tokens`` behind its ``contexts`` computed ones. Logits ``[wanted, vocabulary]``."""
        ends = np.cumsum([len(part) for part in tokens], dtype=np.int32)
        row_starts = np.concatenate((np.zeros(1, dtype=np.int32), ends))
        context_lens = np.array(contexts, dtype=np.int32)
        longest = max(context + len(part) for context, part in zip(contexts, tokens, strict=True))
        rows = [run.track.table.row for run in runs]
        positions, slots, tables = self._placer.place(row_starts, context_lens, rows, longest)
        batch = Batch(
            token_ids=np.concatenate(tokens),
            positions=positions,
            row_starts=row_starts,
            context_lens=context_lens,
            slots=slots,
            block_tables=tables,
            logit_rows=ends[np.array(wanted)] - np.int32(1),
        )
        logits: npt.NDArray[np.float32] = self._program.run(batch).logits.cpu().numpy()
        return logits[:, : self._vocab_size]

    def _add_token(self, run: _Run, row: npt.NDArray[np.float32]) -> bool:
        """Chooses the run's next draft token; whether it is to be computed, for one more behind it.

        A drawn token's confidence is the largest probability of its distribution, and nothing that the draw decides
        ends the draft: whether a position is verified must not depend on the token drawn there (see ``Draft``).
        """
        params = run.sequence.params
        if params.temperature > 0.0:
            distribution = draft_distribution(row, params, self._truncator)
            if distribution is None:
                return False
            token = self._draw(*distribution, run.sequence, run.next_position)
            run.distributions.append(distribution)
            run.confidence.append(float(distribution[1].max()))
        else:
            best = likeliest(row)
            if best is None:
                return False
            token, probability = best
            run.confidence.append(probability)
            run.likelihood *= probability
        run.token_ids.append(token)
        return len(run.token_ids) < run.wanted and run.likelihood >= HOPELESS
