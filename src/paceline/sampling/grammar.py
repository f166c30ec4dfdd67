"""Texts of a given form: which tokens may come next, after what was emitted and after drafts of what might be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

#: What may come next: ascending distinct ids, or a mask over the vocabulary. Both index a row of logits.
Allowed = npt.NDArray[np.int64] | npt.NDArray[np.bool_]


class GrammarMatcher(Protocol):
    """Follows one sequence's output. It knows the committed tokens (``advance``), and answers for these and a ``path``
    of tokens that might follow (draft tokens, from the first to the last), which leaves no trace in it."""

    def advance(self, token: int) -> None:
        """Takes in a committed output token, which was allowed."""

    def allowed(self, path: Sequence[int] = ()) -> Allowed | None:
        """The tokens that may follow, end-of-sequence ids among them where the text may end. Never empty.

        Where the text is over (``ends``): only end-of-sequence ids. None: no restriction, because nothing will be
        emitted there: the path itself is not allowed, or the text is over and the model has no end-of-sequence ids.
        """

    def forced(self, limit: int, path: Sequence[int] = ()) -> tuple[int, ...]:
        """The next tokens, at most ``limit``, as far as only one is possible each time; end-of-sequence ids are never
        among them."""

    def ends(self, path: Sequence[int] = ()) -> bool:
        """Whether the text is over: nothing may follow, or its last token was an end-of-sequence id."""


class _State:
    """A node of the trie of choices: a beginning that choices have in common."""

    __slots__ = ("allowed", "complete", "following")

    def __init__(self) -> None:
        self.following: dict[int, _State] = {}
        self.complete = False  # it is a choice
        self.allowed: Allowed | None = None


class ChoiceMatcher:
    """The output is exactly one of several token sequences.

    Where a choice is the beginning of a longer one, an end-of-sequence id chooses the shorter. A model without such ids
    can only emit the longer one.
    """

    def __init__(self, choices: Iterable[Sequence[int]], eos_ids: Iterable[int] = ()) -> None:
        """``choices``: at least one, none of them empty. Ids must be in the model's vocabulary."""
        self._eos_ids = frozenset(eos_ids)
        self._over = _State()  # behind an end-of-sequence id
        self._over.complete = True
        self._fill_allowed(self._over)
        root = _State()
        for choice in choices:
            state = root
            for token in choice:
                state = state.following.setdefault(token, _State())
            state.complete = True
        assert root.following and not root.complete, "there must be choices, and none of them empty"
        self._state = root
        self._fill_allowed(root)

    def _fill_allowed(self, root: _State) -> None:
        """Of this state and all that follow."""
        states = [root]
        while states:
            state = states.pop()
            ids = {*state.following, *(self._eos_ids if state.complete else ())}
            state.allowed = np.array(sorted(ids), dtype=np.int64) if ids else None
            states += state.following.values()

    def advance(self, token: int) -> None:
        state = self._next(self._state, token)
        assert state is not None, f"token {token} is not allowed here"
        self._state = state

    def allowed(self, path: Sequence[int] = ()) -> Allowed | None:
        state = self._walk(path)
        return None if state is None else state.allowed

    def forced(self, limit: int, path: Sequence[int] = ()) -> tuple[int, ...]:
        state = self._walk(path)
        tokens: list[int] = []
        while len(tokens) < limit and state is not None and len(state.following) == 1:
            if state.complete and self._eos_ids:
                break
            ((token, state),) = state.following.items()
            tokens.append(token)
        return tuple(tokens)

    def ends(self, path: Sequence[int] = ()) -> bool:
        state = self._walk(path)
        return state is not None and not state.following

    def _walk(self, path: Sequence[int]) -> _State | None:
        """The state behind ``path``; None: it is not allowed."""
        state: _State | None = self._state
        for token in path:
            if state is None:
                return None
            state = self._next(state, token)
        return state

    def _next(self, state: _State, token: int) -> _State | None:
        following = state.following.get(token)
        if following is None and state.complete and token in self._eos_ids:
            return self._over
        return following
