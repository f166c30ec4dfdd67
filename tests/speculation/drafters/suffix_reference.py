"""What the suffix trees must say, from counts of all substrings."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from paceline._suffix import MANY_CONTINUATIONS

Path = tuple[int, ...]


class NaiveTree:
    """Suffixes of texts, as plain lists of at most ``max_depth`` tokens."""

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth
        self.texts: dict[int, list[int]] = {}
        self.removed: Counter[int] = Counter()

    def suffixes(self) -> list[Path]:
        return [
            tuple(tokens[start : start + self.max_depth])
            for text, tokens in self.texts.items()
            for start in range(self.removed[text], len(tokens))
        ]

    def counts(self) -> Counter[Path]:
        """Occurrences of every substring of up to ``max_depth`` tokens that begins with a suffix still here."""
        counts: Counter[Path] = Counter()
        for suffix in self.suffixes():
            counts.update(suffix[:length] for length in range(1, len(suffix) + 1))
        return counts

    def nodes(self) -> list[tuple[list[int], int, int]]:
        """Path, suffixes that reach the first token of its last label, suffixes that go on into a child: of every
        path behind which several tokens can follow, or none."""
        counts = self.counts()
        continued: dict[Path, int] = defaultdict(int)
        ways: Counter[Path] = Counter()
        for path, count in counts.items():
            continued[path[:-1]] += count
            ways[path[:-1]] += 1
        found = []
        for path in counts:
            if ways[path] != 1:
                length = len(path) - 1
                while length > 0 and ways[path[:length]] == 1:
                    length -= 1
                found.append((list(path), counts[path[: length + 1]], continued[path]))
        return sorted(found)


@dataclass
class Text:
    """Counts of a tree's substrings, and the text in it that is to be continued."""

    counts: Counter[Path]
    tokens: list[int]
    recent: bool
    following: dict[Path, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        for path, count in self.counts.items():
            self.following[path[:-1]][path[-1]] = count

    def matches(self) -> list[int]:
        """From the longest match on, each about half as long as the one before."""
        lengths = [m for m in range(1, len(self.tokens) + 1) if self.following.get(tuple(self.tokens[-m:]))]
        tried, match = [], max(lengths, default=0)
        while match > 0:
            tried.append(match)
            match -= max(1, match // 2)
        return tried


@dataclass
class Cursor:
    """``path`` occurs in ``text``. ``fresh``: the suffix of the text that is to be continued is still in the label in
    which the path ends, and is one of those that are counted for it."""

    text: Text
    path: Path
    fresh: bool = True

    def ways(self) -> dict[int, int]:
        ways = self.text.following.get(self.path, {})
        if len(ways) != 1:
            return ways
        length = len(self.path) - 1  # a label's count is that of its first token
        while length > 0 and len(self.text.following[self.path[:length]]) == 1:
            length -= 1
        return dict.fromkeys(ways, self.text.counts[self.path[: length + 1]] - self.fresh)

    def follow(self, token: int) -> Cursor | None:
        ways = self.text.following.get(self.path, {})
        if token not in ways:
            return None
        return replace(self, path=(*self.path, token), fresh=self.fresh and len(ways) == 1)


F = np.float32
ODDS = [F(x) for x in (0.57, 0.72, 0.82, 0.90, 0.97, 1.0)]


def estimates(cursors: list[Cursor]) -> list[tuple[int, np.float32]]:
    """Tokens and their probabilities, the likeliest first. In the index's order and precision: ties must be ties."""
    share, found = F(1), {}
    for cursor in cursors:
        ways = cursor.ways()
        total = sum(ways.values())
        if share <= F(0.01) or total == 0:
            continue
        weight = F(0.5 if cursor.text.recent else 1.0)
        whole = weight * F(total) + F(2)
        if len(ways) > 1 and total > MANY_CONTINUATIONS:
            best = min(ways, key=lambda t: (-ways[t], t))
            ways = {t: n for t, n in ways.items() if t == best or t in found}
        for token, count in ways.items():
            found[token] = found.get(token, F(0)) + share * weight / whole * F(count)
        share *= F(2) / whole
    return sorted(found.items(), key=lambda way: (-way[1], way[0]))


def likeliest_tree(
    own: Text, recent: Text, length: int, max_factor: float, first: float, other: float
) -> list[tuple[int, int, float]]:
    """(token, parent, confidence) of the draft, in its order."""
    matches = [(-m, text.recent, text) for text in (own, recent) for m in text.matches()]
    cursors = [Cursor(text, tuple(text.tokens[m:])) for m, _, text in sorted(matches, key=lambda match: match[:2])]
    most = int(max_factor * max((len(c.path) for c in cursors), default=0))
    draft: list[tuple[int, int, float]] = []
    places: list[list[Cursor]] = []
    leaves: list[tuple[float, int, int, np.float32, int, int]] = []

    def add_leaves(cursors: list[Cursor], parent: int, depth: int, path: np.float32) -> None:
        for i, (token, p) in enumerate(estimates(cursors)[:4]):
            odds = ODDS[min(depth, 5) if i == 0 else 0]
            confidence = odds * p / (F(1) - p + odds * p)
            if path * confidence < F(first if i == 0 else other):
                break
            leaves.append((-path * confidence, len(leaves), token, confidence, parent, depth))

    add_leaves(cursors, -1, 0, F(1)) if most > 0 else None
    taken: set[int] = set()
    while len(draft) < length and len(taken) < len(leaves):
        path, number, token, confidence, parent, depth = min(leaf for leaf in leaves if leaf[1] not in taken)
        taken.add(number)
        draft.append((token, parent, float(confidence)))
        before = cursors if parent < 0 else places[parent]
        places.append([after for c in before if (after := c.follow(token))])
        if depth + 1 < most:
            add_leaves(places[-1], len(draft) - 1, depth + 1, -path)
    return draft
