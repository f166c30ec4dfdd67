"""The native module (csrc/speculation/bindings.cpp): what drafters do outside of a model. Wrapped by the drafters
``suffix`` and ``turbo``."""

from collections.abc import Sequence

from paceline.backends.base import FloatArray, IntArray

MAX_DRAFT: int
MANY_CONTINUATIONS: int

class SuffixIndex:
    """Sequences, their own texts and the recent outputs of their adapters. ValueError for what no index can have,
    IndexError for a sequence that is not open."""

    def __init__(self, max_depth: int, max_cached_tokens: int, max_factor: float) -> None: ...
    def open(self, adapter: int, sibling: int, first: int, recent_first: int, output_first: int) -> int: ...
    def extend(self, sequence: int, tokens: Sequence[int]) -> None: ...
    def close(self, sequence: int) -> None: ...
    def step(
        self,
        sequences: Sequence[int],
        tokens: Sequence[int],
        counts: Sequence[int],
        lengths: Sequence[int],
        first: float,
        other: float,
    ) -> list[tuple[tuple[int, ...], tuple[int, ...] | None, tuple[float, ...]] | None]:
        """Feeds ``counts[i]`` of ``tokens`` to sequence ``i``, then gives token ids, parents (None: a chain) and
        confidence of its draft of at most ``lengths[i]`` tokens (0: none is wanted). ``first``: least probability that
        the likeliest token behind another is right, with its ancestors; ``other``: the same of its siblings."""

    @property
    def num_cached(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def bytes(self) -> int: ...

class MarkovTerm:
    """A low-rank bias of a token behind another, ``previous[other] . next[token]``; both [vocabulary, rank], and
    copied. Raises ``ValueError`` where they do not fit each other."""

    def __init__(self, previous: FloatArray, next: FloatArray) -> None: ...
    @property
    def bytes(self) -> int: ...

def grow_trees(
    logits: FloatArray,
    counts: IntArray,
    most: IntArray,
    before: IntArray,
    markov: MarkovTerm,
    tokens: IntArray,
    parents: IntArray,
    confidence: FloatArray,
    sizes: IntArray,
) -> None:
    """Makes token trees of blocks that were predicted in one pass.

    ``logits`` [rows, vocabulary + 1], the last column that of survival; ``counts[i]`` consecutive rows are block ``i``,
    behind the known token ``before[i]`` (an index of the draft vocabulary, -1: none). Candidates are the 32 likeliest
    tokens of a position and the 16 that ``markov`` raises most behind the token before. The likeliest paths become at
    most ``most[i]`` nodes, likeliest first, at most 4 behind the same token; none of less than 2%. Written from
    ``sum(most[:i])`` on: a node's token, its parent's place among the nodes (-1: the known token) and its chance
    of acceptance once its parent was; to ``sizes[i]`` their number. A row that is not finite, and those behind it, give
    none.
    """

class SuffixTree:
    """A forest of suffix trees; for tests."""

    def __init__(self, max_depth: int, segments: int = 1) -> None: ...
    def add_root(self) -> int: ...
    def drop_root(self, root: int) -> None: ...
    def open(self, root: int) -> int: ...
    def append(self, text: int, token: int) -> None: ...
    def close(self, text: int) -> None: ...
    def remove_first(self, text: int) -> None: ...
    def drop(self, text: int) -> None: ...
    def longest_match(self, text: int) -> int: ...
    def nodes(self, root: int) -> list[tuple[list[int], int, int]]: ...
    @property
    def num_nodes(self) -> int: ...
    @property
    def bytes(self) -> int: ...
