"""Shows who proposed which part of an answer, while it comes: in colours, or in brackets where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.text import Text

    from paceline.engine.output import SequenceOutput
    from paceline.engine.speculation_report import SpeculationReport

_COLOURS = {"suffix": "green", "ngram": "cyan", "grammar": "magenta", "model": "yellow"}
_OTHERS = "blue"
_CODES = {"green": 32, "cyan": 36, "magenta": 35, "yellow": 33, "blue": 34}
_RESET = "\x1b[0m"


class DraftDisplay:
    """Marks the text of one answer after the other for ``target``.

    A character belongs to the token that completes it. ``drafters``: those that the legend names.
    """

    def __init__(self, target: TextIO, drafters: Sequence[str]) -> None:
        from rich.console import Console

        console = Console(file=target)
        self._colours = console.color_system is not None and not console.no_color
        self._drafters = list(drafters)
        self._tokens: list[tuple[int, str]] = []  # where each begins, and its source
        self._next = 0  # the first token that begins behind the text shown
        self._shown = 0  # characters
        self._source = ""  # of the last character shown

    def legend(self) -> Text:
        """What the marks mean."""
        from rich.text import Text

        if not self._drafters:
            return Text("Nobody drafts here: all tokens are the model's own.", "dim")
        text = Text().append("Drafted by ", "dim")
        for i, name in enumerate(self._drafters):
            text.append(", " if i else "", "dim")
            text.append(name if self._colours else f"{_opening(name)}{name}]", _colour(name))
        return text.append("; unmarked: the model's own.", "dim")

    def begin(self) -> None:
        """A new answer."""
        self._tokens.clear()
        self._next = self._shown = 0
        self._source = ""

    def show(self, part: SequenceOutput) -> str:
        """The new text with its marks."""
        self._tokens += zip(part.text_offsets, part.sources, strict=True)
        runs = groupby(self._pieces(part.text), key=itemgetter(1))
        return "".join([self._mark("".join(text for text, _ in pieces), source) for source, pieces in runs])

    def end(self) -> str:
        """What closes the last mark."""
        return self._mark("", "")

    def _pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """The text cut where tokens begin, each piece with its source."""
        tokens, source = self._tokens, self._source
        start, end = self._shown, self._shown + len(text)
        while self._shown < end:
            while self._next < len(tokens) and tokens[self._next][0] <= self._shown:
                source = tokens[self._next][1]
                self._next += 1
            begin, self._shown = self._shown, end
            if self._next < len(tokens):
                self._shown = min(end, tokens[self._next][0])
            yield text[begin - start : self._shown - start], source

    def _mark(self, text: str, source: str) -> str:
        before, self._source = self._source, source
        if self._colours:  # complete in itself: whatever else is printed in between has its own colour
            return f"\x1b[{_CODES[_colour(source)]}m{text}{_RESET}" if source and text else text
        if source == before:
            return text
        return ("]" if before else "") + (_opening(source) if source else "") + text


def statistics(report: SpeculationReport, count: int) -> str:
    """Of one answer of ``count`` tokens: how far a step came, and how much of the text was drafted."""
    length = report.acceptance_length
    if length is None or not count:
        return ""
    each = [f"{name} {entry.accepted} of {entry.drafted}" for name, entry in report.by_drafter.items()]
    accepted = f" (accepted: {', '.join(each)})" if each else ""
    return f"acceptance length {length:.2f}, {report.accepted / count:.0%} drafted{accepted}"


def _colour(name: str) -> str:
    return _COLOURS.get(name, _OTHERS)


def _opening(name: str) -> str:
    return f"[{name[0] if name in _COLOURS else name}|"
