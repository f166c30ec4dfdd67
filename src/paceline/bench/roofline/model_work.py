"""What steps of a model need: bytes and operations of its matrix products and of its attention.

The same arithmetic serves models that are loaded (``inventory.py``: weights as they lie in memory) and models of which
only the configuration is known (``bench/plan``). Activations stay in the caches and are not counted; logits are, since
they go to memory and the sampler reads them there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.bench.roofline.work import Work

HEAD = "head"
LOGIT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix that steps multiply by, ``count`` equal ones of it (one a layer). A mixture's experts of one layer are
    one weight: ``nbytes`` is then that of one of ``experts``, of which a row uses ``chosen``. ``selected``: how many of
    them only see the rows whose logits are wanted: the head, and what stands behind the last layer's attention."""

    part: str
    outputs: int
    inputs: int
    nbytes: float  # of one matrix
    arithmetic: str
    count: int = 1
    experts: int = 1
    chosen: int = 1
    selected: int = 0

    @property
    def parameters(self) -> int:
        return self.outputs * self.inputs * self.experts * self.count

    @property
    def active_parameters(self) -> int:
        """Those that one token is multiplied by."""
        return self.outputs * self.inputs * self.chosen * self.count

    def experts_read(self, rows: int) -> float:
        """Expected number of different experts that ``rows`` rows use, if each row's choice is even and its own."""
        return self.experts * (1.0 - (1.0 - self.chosen / self.experts) ** rows)

    def work(self, rows: int, logit_rows: int | None = None) -> Work:
        """Of the products with ``rows`` rows, ``logit_rows`` of them with logits (None: all)."""
        wanted = rows if logit_rows is None else logit_rows
        return self._once(rows) * (self.count - self.selected) + self._once(wanted) * self.selected

    def _once(self, rows: int) -> Work:
        nbytes = self.nbytes * self.experts_read(rows)
        written = LOGIT_BYTES * self.outputs * rows if self.part == HEAD else 0
        return Work(nbytes + written, {self.arithmetic: 2.0 * self.outputs * self.inputs * self.chosen * rows})


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention of all layers. ``windows``: one entry a layer, 0 where it sees the whole context. ``item``: bytes of a
    number in the cache."""

    heads: int
    kv_heads: int
    head_dim: int
    windows: Sequence[int]
    item: float
    arithmetic: str

    @property
    def key_bytes(self) -> float:
        """Of one token's key and value in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.item

    def cache_bytes(self, tokens: int) -> float:
        """Of the keys and values that a sequence of ``tokens`` tokens keeps in all layers."""
        return self.key_bytes * sum(min(tokens, window) if window else tokens for window in self.windows)

    def work(self, rows: int, context: int) -> Work:
        """Of ``rows`` rows of one sequence behind ``context`` tokens. A row sees the keys up to its own; a key is read
        once for all rows. An operation count of 4 for each number of a key: q . k and p * v."""
        seen = read = 0
        for window in self.windows:
            if window:
                first, last = min(window, context + 1), min(window, context + rows)
                ramp = last - first + 1  # rows whose number of keys still grows
                seen += (first + last) * ramp // 2 + (rows - ramp) * last
                read += min(context + rows, window + rows - 1)
            else:
                seen += rows * context + rows * (rows + 1) // 2
                read += context + rows
        return Work(self.key_bytes * read, {self.arithmetic: 4.0 * self.heads * self.head_dim * seen})


@dataclass(frozen=True, slots=True)
class ModelWork:
    """A whole model: ``weights`` (the head last) and attention."""

    weights: Sequence[Weight]
    attention: Attention

    @property
    def num_layers(self) -> int:
        return len(self.attention.windows)

    def products(self, rows: int, logit_rows: int) -> Work:
        """Of all matrix products of a step."""
        return total(weight.work(rows, logit_rows) for weight in self.weights)

    def step(self, sequences: int, rows: int, context: int, logit_rows: int | None = None) -> tuple[Work, Work]:
        """Products and attention of a step in which ``sequences`` have ``rows`` rows each behind ``context`` tokens.
        ``logit_rows``: rows with logits; None: all."""
        count = sequences * rows
        products = self.products(count, count if logit_rows is None else logit_rows)
        return products, self.attention.work(rows, context) * sequences

    def prefill(self, tokens: int, chunk: int) -> list[tuple[Work, Work]]:
        """The steps that compute a prompt of ``tokens`` tokens, ``chunk`` of them at most in each; logits of the last
        row only."""
        starts = range(0, tokens, chunk)
        return [self.step(1, min(chunk, tokens - start), start, int(start + chunk >= tokens)) for start in starts]


def total(works: Iterable[Work]) -> Work:
    """The sum."""
    result = Work()
    for work in works:
        result = result + work
    return result
