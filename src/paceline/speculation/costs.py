"""What a step costs: seconds by rows and contexts for the target, by sequences and draft length for a drafter that runs
a model.

Both are measured on the machine they are used on and go on learning from real steps. Pure: seconds come in as numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

#: Rows for which a step's seconds lie ready in a list; beyond them they are computed.
TABLE_ROWS = 512
#: Observations between two rebuilds of that list.
REBUILD_EVERY = 32
#: A real step moves the curve by its relative error, but by no more than this much of it: a step that was descheduled
#: takes ten times as long and must count like one that was a little slow. So clipped, errors balance near the median.
CLIP = 0.1
#: Share of the clipped error by which one step moves the whole curve, and its own part of it. The machine's speed and
#: the contexts' lengths change within seconds and for all row counts alike; a single part of the curve rarely does.
GLOBAL_RATE, LOCAL_RATE = 0.05, 0.012
#: Start-up measurements count like this many real steps when neighbours contradict each other; real ones are forgotten
#: at this rate.
MEASURED_WEIGHT, REMEMBERED = 8.0, 0.995


@dataclass(frozen=True, slots=True)
class ContextCosts:
    """What keys and values of tokens before a step's rows add to it: for each sequence ``key`` seconds a key that has
    to be read, and ``key_row`` a key that a row is compared with. A layer with a window sees no more keys than that:
    ``windows`` has one entry a layer, 0 for no window; empty: no layer has one.

    ``known`` tokens of context are part of the curve already: that was measured behind so many.
    """

    key: float = 0.0
    key_row: float = 0.0
    known: int = 0
    windows: tuple[int, ...] = ()

    def keys(self, context: float) -> float:
        """Keys that a row behind ``context`` tokens sees, beyond those in the curve; mean over the layers."""
        if not self.windows:
            return max(0.0, context - self.known)
        seen = sum(min(context, window or context) for window in self.windows) / len(self.windows)
        return max(0.0, seen - self.known)


class StepCosts:
    """Seconds of a step of the target. By its rows (tokens computed) they are a curve that never decreases, linear
    between measured points; contexts come on top (``attention``), and rows that need no logits are cheaper.

    ``measured``: (rows, seconds) pairs, one for each row count; seconds are medians of a few runs, all rows with
    logits. Beyond the largest count the curve goes on with the slope of its upper half. Measure every count where
    kernels change (1, 2, ... 9, 16, 17, ...) up to the row budget of a step: the curve knows nothing of what lies
    between two points. ``logits``: seconds of one row's logits. Raises ``ValueError`` without measurements, or for one
    that is not positive.
    """

    def __init__(
        self, measured: Iterable[tuple[int, float]], contexts: ContextCosts | None = None, logits: float = 0.0
    ) -> None:
        self._contexts = contexts or ContextCosts()
        self._logits = logits
        points = dict(sorted(measured))
        if not points:
            raise ValueError("a cost curve needs at least one measured (rows, seconds) pair")
        for rows, seconds in points.items():
            if rows < 1 or not 0 < seconds < math.inf:
                raise ValueError(f"a cost curve needs rows >= 1 and positive, finite seconds, got ({rows}, {seconds})")
        self._rows = list(points)
        self._weights = [MEASURED_WEIGHT] * len(points)
        self._knots = isotonic(list(points.values()), self._weights)
        self._scale = 1.0
        self._unseen = 0  # observations since the last rebuild
        self._rebuild()

    def seconds(self, rows: int) -> float:
        """Of a step with ``rows`` rows; 0 for none."""
        return self._table[rows] if rows < len(self._table) else self._end + self._slope * (rows - self._rows[-1])

    def attention(self, context: float, rows: int = 1) -> float:
        """Seconds that come on top for a sequence whose ``rows`` rows see ``context`` tokens on average."""
        contexts = self._contexts
        return self._table_scale * (contexts.key + contexts.key_row * rows) * contexts.keys(context)

    def attention_of_all(self, contexts: Sequence[int]) -> float:
        """The same of sequences with one row each."""
        costs = self._contexts
        if costs.windows:
            keys = sum(map(costs.keys, contexts))
        else:
            known = costs.known
            keys = sum([context - known for context in contexts if context > known])
        return self._table_scale * (costs.key + costs.key_row) * keys

    def row_attention(self, context: float) -> float:
        """Seconds that come on top for one more row of a sequence that is in the step anyway."""
        return self._table_scale * self._contexts.key_row * self._contexts.keys(context)

    @property
    def logits(self) -> float:
        """Seconds of one row's logits; they are part of what the curve says of a row."""
        return self._table_scale * self._logits

    def span(self, rows: int, count: int) -> list[float]:
        """Seconds of steps with ``rows``, ``rows + 1``, ... ``rows + count`` rows."""
        if rows + count < len(self._table):
            return self._table[rows : rows + count + 1]
        return [self.seconds(r) for r in range(rows, rows + count + 1)]

    @property
    def points(self) -> list[tuple[int, float]]:
        """(rows, seconds) at the measured counts, as they are believed now; what a restarted engine may start from."""
        return [(rows, knot * self._scale) for rows, knot in zip(self._rows, self._knots, strict=True)]

    def observe(self, rows: int, seconds: float, beside: float = 0.0) -> None:
        """A real step took ``seconds``, of which ``beside`` were expected for what the curve does not know (contexts).
        The curve follows within some dozens of steps; outliers hardly move it."""
        if rows < 1 or not 0 < seconds < math.inf:
            raise ValueError(f"a step has rows >= 1 and positive, finite seconds, got ({rows}, {seconds})")
        knots, above = self._knots, bisect_right(self._rows, rows)
        below = max(above - 1, 0)
        if above in (0, len(knots)):
            share = 0.0
            believed = knots[below] + (self._slope / self._table_scale) * max(rows - self._rows[below], 0)
        else:
            share = (rows - self._rows[below]) / (self._rows[above] - self._rows[below])
            believed = knots[below] + share * (knots[above] - knots[below])
        error = seconds / (believed * self._scale + beside) - 1.0
        error = max(-CLIP, min(CLIP, error))
        self._scale *= 1.0 + GLOBAL_RATE * error
        self._nudge(below, 1.0 - share, error)
        if share:
            self._nudge(above, share, error)
        self._unseen += 1
        if self._unseen >= REBUILD_EVERY:
            self._rebuild()

    def _nudge(self, knot: int, share: float, error: float) -> None:
        self._knots[knot] *= 1.0 + LOCAL_RATE * share * error
        self._weights[knot] = MEASURED_WEIGHT + REMEMBERED * (self._weights[knot] - MEASURED_WEIGHT) + share

    def _rebuild(self) -> None:
        """The list of seconds, from points made monotone again."""
        self._unseen = 0
        self._knots = isotonic(self._knots, self._weights)
        scale = self._table_scale = self._scale
        last = self._rows[-1]
        half = float(np.interp(last / 2, self._rows, self._knots))
        # A single measured count says nothing of the slope; proportional growth is the cautious guess.
        rise = self._knots[-1] - half if len(self._rows) > 1 else self._knots[-1] / 2
        self._slope = scale * rise / (last / 2)
        self._end = scale * self._knots[-1]
        counts = np.arange(TABLE_ROWS + 1)
        table = np.interp(counts, self._rows, self._knots) * scale + self._slope * np.maximum(counts - last, 0)
        table[0] = 0.0
        self._table: list[float] = table.tolist()


class DraftCosts:
    """Seconds in which a drafter proposes ``length`` tokens for each of ``sequences``, learned from few observations:

        a + b * sequences + c * length + d * sequences * length, all of a, b, c, d >= 0

    which is a pass a token (c, d) as well as one pass for a whole block (a, b), and grows in both arguments. Fitted
    by least squares of the *relative* error: a stall of ten times the usual seconds weighs a hundredth. ``measured``:
    one or more (sequences, length, seconds); raises ``ValueError`` without any, or for one that is not positive.
    """

    #: Weight of what was seen, at each further observation.
    FORGET = 0.97
    #: Draws what the observations leave open to equal parts of the first one; in observations.
    PRIOR = 0.02

    def __init__(self, measured: Iterable[tuple[int, int, float]]) -> None:
        pairs = list(measured)
        if not pairs:
            raise ValueError("a drafter's cost needs at least one measured (sequences, length, seconds)")
        sequences, length, seconds = pairs[0]
        self._check(sequences, length, seconds)
        # Each coefficient is in units of the first observation's quarter, which makes the prior mean 1 for all.
        self._units = [seconds / 4 / feature for feature in (1, sequences, length, sequences * length)]
        self._matrix = [[self.PRIOR * (i == j) for j in range(4)] for i in range(4)]
        self._vector = [self.PRIOR] * 4
        self._parts = [1.0] * 4
        for observation in pairs:
            self.observe(*observation)

    def seconds(self, sequences: int, length: int) -> float:
        """Of one proposal; 0 when there is nothing to propose."""
        if sequences == 0 or length == 0:
            return 0.0
        return math.fsum(p * x for p, x in zip(self._parts, self._features(sequences, length), strict=True))

    def observe(self, sequences: int, length: int, seconds: float) -> None:
        """A proposal took ``seconds``."""
        self._check(sequences, length, seconds)
        x = [feature / seconds for feature in self._features(sequences, length)]
        for i, row in enumerate(self._matrix):
            for j in range(4):
                row[j] = self.FORGET * row[j] + x[i] * x[j] + (1 - self.FORGET) * self.PRIOR * (i == j)
            self._vector[i] = self.FORGET * self._vector[i] + x[i] + (1 - self.FORGET) * self.PRIOR
        self._solve()

    def _features(self, sequences: int, length: int) -> list[float]:
        a, b, c, d = self._units
        return [a, b * sequences, c * length, d * sequences * length]

    def _solve(self, sweeps: int = 8) -> None:
        """Non-negative least squares by coordinate descent from the last solution."""
        parts = self._parts
        for _ in range(sweeps):
            for i, row in enumerate(self._matrix):
                rest = self._vector[i] - sum(row[j] * parts[j] for j in range(4) if j != i)
                parts[i] = max(0.0, rest / row[i])

    @staticmethod
    def _check(sequences: int, length: int, seconds: float) -> None:
        if sequences < 1 or length < 1 or not 0 < seconds < math.inf:
            raise ValueError(
                "a drafter's cost needs sequences >= 1, length >= 1 and positive, finite seconds, got "
                f"({sequences}, {length}, {seconds})"
            )


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence with the least weighted squared distance to ``values`` (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        length = 1
        while pools and pools[-1][0] > value:
            mean, heavier, more = pools.pop()
            value = (mean * heavier + value * weight) / (heavier + weight)
            weight += heavier
            length += more
        pools.append((value, weight, length))
    return [mean for mean, _, length in pools for _ in range(length)]
