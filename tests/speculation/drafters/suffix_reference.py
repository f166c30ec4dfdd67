"""What the suffix trees must say, from counts of all substrings."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

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


def best_draft(
    trees: list[tuple[Counter[Path], list[int]]], max_depth: int, length: int, max_factor: float, least: float
) -> list[int]:
    """The draft with the best score. Each tree: counts of substrings, and the tokens to follow. ``least``: smallest
    probability of a path. Single precision, as the index has it: ties must be the same ties."""
    best: tuple[float, int] = (0.0, 0)
    tokens: list[int] = []
    for counts, text in trees:
        following: dict[Path, dict[int, int]] = defaultdict(dict)
        for path, count in counts.items():
            following[path[:-1]][path[-1]] = count
        for match in tried_matches(following, text, max_depth):
            drafted, score = most_frequent_path(following, tuple(text[-match:]), match, length, max_factor, least)
            assert match + len(drafted) <= max_depth, "the reference does not look beyond the depth of the trees"
            if drafted and (score, match) > best:
                best, tokens = (score, match), drafted
    return tokens


def tried_matches(following: dict[Path, dict[int, int]], text: list[int], max_depth: int) -> list[int]:
    """From the longest match on, each about a quarter shorter than the one before."""
    lengths = [m for m in range(1, min(len(text), max_depth - 1) + 1) if following.get(tuple(text[-m:]))]
    tried, match = [], max(lengths, default=0)
    while match > 0:
        tried.append(match)
        match -= max(1, match // 4)
    return tried


def most_frequent_path(
    following: dict[Path, dict[int, int]], path: Path, match: int, length: int, max_factor: float, least: float
) -> tuple[list[int], float]:
    drafted: list[int] = []
    score, probability = np.float32(0.0), np.float32(1.0)
    while len(drafted) < min(length, int(max_factor * match)) and following.get(path):
        ways = following[path]
        token = min(ways, key=lambda t: (-ways[t], t))
        probability *= np.float32(ways[token]) / np.float32(sum(ways.values()))
        if probability < least:
            break
        score += probability
        drafted.append(token)
        path = (*path, token)
    return drafted, float(score)
