"""What the suffix trees must say, from counts of all substrings."""

from __future__ import annotations

from collections import Counter, defaultdict

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
    trees: list[tuple[Counter[Path], list[int]]],
    max_depth: int,
    length: int,
    max_factor: float,
    min_probability: float,
) -> tuple[float, int, list[int]]:
    """Score, match length and tokens of the best draft. Each tree: counts of substrings, and the tokens to follow."""
    best: tuple[float, int, list[int]] = (0.0, 0, [])
    for counts, tokens in trees:
        following: dict[Path, dict[int, int]] = defaultdict(dict)
        for path, count in counts.items():
            following[path[:-1]][path[-1]] = count
        for match in range(min(len(tokens), max_depth - 1), 0, -1):
            path, score, probability, drafted = tuple(tokens[-match:]), 0.0, 1.0, []
            while len(drafted) < min(length, int(max_factor * match)) and following[path]:
                assert len(path) < max_depth, "the reference does not look beyond the depth of the trees"
                ways = following[path]
                token = min(ways, key=lambda t: (-ways[t], t))
                probability *= ways[token] / sum(ways.values())
                if probability < min_probability:
                    break
                score += probability
                drafted.append(token)
                path = (*path, token)
            if drafted and (score, match) > best[:2]:
                best = (score, match, drafted)
    return best
