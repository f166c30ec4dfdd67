"""Stop strings as one automaton (Aho and Corasick 1975): a character costs O(1), however many strings there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string to be completed; among those that end together, the longest (which began first).

    That rule looks at characters one by one, so the answer depends on the text alone, not on how it was cut into
    tokens or deltas. A state is an int; 0 is the start. ``held[state]`` is the length of the longest suffix of the
    text read so far that could still become a stop string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._match: list[str | None] = [None]
        self.held = [0]
        for string in strings:
            self._insert(string)
        self._first = frozenset(self._next[0])
        self._link()

    def _insert(self, string: str) -> None:
        state = 0
        for char in string:
            following = self._next[state].get(char)
            if following is None:
                following = self._next[state][char] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._match.append(None)
                self.held.append(self.held[state] + 1)
            state = following
        self._match[state] = string

    def _link(self) -> None:
        """Failure links, breadth first: the longest proper suffix of a state that is itself a state."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for char, child in self._next[state].items():
                self._fail[child] = self._step(self._fail[state], char)
                waiting.append(child)
            if self._match[state] is None:
                self._match[state] = self._match[self._fail[state]]

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(char, 0)

    def scan(self, state: int, text: str, may_stop: bool = True) -> tuple[int, int, str | None]:
        """Reads ``text`` on from ``state``: the new state, how many characters were read, and the stop string that
        ends there (None: all of ``text`` was read and none was found). With ``may_stop`` false matches are passed."""
        if state == 0 and self._first.isdisjoint(text):
            return 0, len(text), None
        for position, char in enumerate(text, 1):
            state = self._step(state, char)
            if may_stop and (match := self._match[state]) is not None:
                return state, position, match
        return state, len(text), None
