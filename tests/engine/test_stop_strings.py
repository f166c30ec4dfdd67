"""The stop-string automaton against the definition, by brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.engine.stop_strings import StopStrings

WORDS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)


def first_match(stops: list[str], text: str) -> tuple[int, str] | None:
    """The smallest end at which a stop string is complete, and the longest one that ends there."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return end, max(found, key=len)
    return None


def longest_beginning(stops: list[str], text: str) -> int:
    prefixes = [stop[:n] for stop in stops for n in range(len(stop) + 1)]
    return max(len(prefix) for prefix in prefixes if text.endswith(prefix))


@given(WORDS, st.lists(st.text("abc", max_size=4), max_size=6))
def test_finds_the_first_completed_stop_string_however_the_text_is_cut(stops, chunks) -> None:
    automaton = StopStrings(stops)
    state, position = 0, 0
    found = None
    for chunk in chunks:
        state, read, match = automaton.scan(state, chunk)
        position += read
        if match is not None:
            found = position, match
            break
    assert found == first_match(stops, "".join(chunks))


@given(WORDS, st.text("abc", max_size=12))
def test_holds_back_the_longest_suffix_that_may_become_a_stop_string(stops, text) -> None:
    automaton = StopStrings(stops)
    state, read, match = automaton.scan(0, text, may_stop=False)
    assert (read, match) == (len(text), None)
    assert automaton.held[state] == longest_beginning(stops, text)


def test_text_without_any_first_character_costs_no_steps() -> None:
    automaton = StopStrings(["###", "\n\n"])
    assert automaton.scan(0, "a plain sentence.") == (0, 17, None)
