"""The axes of a plot: room for their text, grid lines, ticks and titles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.bench.output.plot.scale import Scale, place_ticks, round_ticks, tick_text
from paceline.bench.output.plot.svg import TEXT_WIDTH, element, shortened, text_width, words, wrapped

LINE = 14.0  # pixels from one line of text to the next
TURN = 35.0  # degrees of names that have no room beside each other
TURNED_WIDTH = 120.0  # pixels of such a name, at most
NAME_LINES = 3


@dataclass(frozen=True, slots=True)
class Names:
    """Categories along an axis, each in the middle of its own part of ``start`` to ``end``."""

    names: Sequence[str]
    start: float = 0.0
    end: float = 1.0

    @property
    def part(self) -> float:
        """Pixels of one name."""
        return (self.end - self.start) / max(1, len(self.names))

    def at(self, name: str) -> float:
        return self.start + (self.names.index(name) + 0.5) * self.part

    def moved(self, start: float, end: float) -> Names:
        return Names(self.names, start, end)

    def fit(self) -> bool:
        """Whether all names can be read beside each other, on some lines each."""
        lines = [wrapped(name, self.part - 6) for name in self.names]
        longest = max((text_width(line) for each in lines for line in each), default=0.0)
        return longest <= self.part - 6 and max(map(len, lines), default=0) <= NAME_LINES


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of a drawing in which marks lie, with the axes around it."""

    x: Scale | Names
    y: Scale
    axes: str


@dataclass(frozen=True, slots=True)
class _Label:
    """Text under the horizontal axis at ``at`` pixels, on some lines or turned."""

    at: float
    lines: Sequence[str]
    turned: bool = False

    @property
    def height(self) -> float:
        if not self.turned:
            return LINE * len(self.lines)
        return text_width(self.lines[0]) * math.sin(math.radians(TURN)) + LINE

    def draw(self, y: float) -> str:
        if self.turned:
            return words(self.lines[0], self.at + 4, y + 9, anchor="end", turn=-TURN)
        return "".join(words(line, self.at, y + 11 + LINE * i, anchor="middle") for i, line in enumerate(self.lines))


def frame(
    x: Scale | Names,
    y: Scale,
    titles: tuple[str, str],
    size: tuple[float, float],
    x_values: Sequence[float] = (),
    room: float = 0.0,
) -> Frame:
    """``titles``: of the horizontal and the vertical axis. ``size``: width and height of the drawing in pixels, titles
    included. ``x_values``: what lies along the horizontal axis, to name its ticks. ``room``: pixels above the highest
    value, for text."""
    width, height = size
    y_ticks = round_ticks(y)
    left = max((text_width(tick_text(tick)) for tick in y_ticks), default=0.0) + 10
    right = width - 4
    x = x.moved(left, right - 8)
    x_title, y_title = wrapped(titles[0], right - left), wrapped(titles[1], width)
    labels = _name_labels(x) if isinstance(x, Names) else _value_labels(x, x_values)
    top = LINE * len(y_title) + 10 + room
    bottom = height - LINE * len(x_title) - max((label.height for label in labels), default=0.0) - 10
    y = y.moved(bottom, top)
    parts = [_grid(left, right, y.at(tick), tick_text(tick)) for tick in y_ticks]
    parts += [element("line", x1=left, y1=bottom, x2=right, y2=bottom, class_="axis")]
    parts += [element("line", x1=each.at, y1=bottom, x2=each.at, y2=bottom + 4, class_="axis") for each in labels]
    parts += [label.draw(bottom + 4) for label in labels]
    parts += title_lines(y_title, 0, 11)
    parts += title_lines(x_title, (left + right) / 2, height - 4 - LINE * (len(x_title) - 1), "middle")
    return Frame(x, y, "".join(parts))


def title_lines(lines: Sequence[str], x: float, y: float, anchor: str = "") -> list[str]:
    """An axis's title, its first line at ``y``."""
    return [words(line, x, y + LINE * i, class_="name", anchor=anchor) for i, line in enumerate(lines)]


def _grid(left: float, right: float, at: float, text: str) -> str:
    return element("line", x1=left, y1=at, x2=right, y2=at, class_="grid") + words(text, left - 6, at + 4, anchor="end")


def _value_labels(x: Scale, values: Sequence[float]) -> list[_Label]:
    return [_Label(x.at(tick), [tick_text(tick)]) for tick in place_ticks(x, values, TEXT_WIDTH)]


def _name_labels(x: Names) -> list[_Label]:
    if x.fit():
        return [_Label(x.at(name), wrapped(name, x.part - 6)) for name in x.names]
    every = math.ceil(LINE / x.part) if x.part else 1  # of very many names, those that have room
    lean = math.cos(math.radians(TURN))
    shown = x.names[::every]
    return [_Label(x.at(n), [shortened(n, min(TURNED_WIDTH, x.at(n) / lean))], turned=True) for n in shown]
