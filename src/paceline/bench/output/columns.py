"""Which columns of a table fit beside each other in a terminal, and how wide each may be."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

GAP = 2  # characters between columns
NARROW_TEXT = 12  # characters down to which a column of text may be broken between its words
LONGEST_WORD = 28  # characters of a word that is kept whole: paths are longer
LEADING = 2  # columns that name a row, at most, repeated when a table is cut

Widths = dict[int, int]


def fit(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> list[Widths]:
    """Widths by column, for one or more tables to show below each other, each at most ``width`` characters wide where
    its words allow it.

    Numbers are never broken; headers and text are, between words. When that is not enough the columns are dealt out to
    several tables, each beginning with the columns that name the rows."""
    columns = range(len(header))
    wished = {i: max(cell_len(text) for text in (header[i], *(row[i] for row in rows))) for i in columns}
    least = {i: _least(header[i], [row[i] for row in rows], numeric[i]) for i in columns}
    return [_widths(part, wished, least, numeric, width) for part in _parts(numeric, least, width)]


def _least(title: str, cells: Sequence[str], numeric: bool) -> int:
    """The width below which a column would be hard to read."""
    whole = max((cell_len(cell) for cell in cells), default=0)
    if numeric:
        return max(whole, _longest_word(title))
    words = min(LONGEST_WORD, max((_longest_word(cell) for cell in cells), default=0))
    return max(_longest_word(title), words, min(NARROW_TEXT, whole))


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)


def _parts(numeric: Sequence[bool], least: Widths, width: int) -> list[list[int]]:
    """Columns of each table: as few tables as possible, filled from the left."""
    leading = _leading(numeric)
    if sum(least[i] for i in leading) > width // 2:
        leading = leading[:1]
    parts = [list(leading)]
    for column in range(len(leading), len(numeric)):
        wanted = [*parts[-1], column]
        if len(parts[-1]) > len(leading) and sum(least[i] + GAP for i in wanted) - GAP > width:
            wanted = [*leading, column]
            parts.append(wanted)
        parts[-1] = wanted
    return parts


def _leading(numeric: Sequence[bool]) -> list[int]:
    """What names the rows: the first columns of text, with a column of numbers before them (a rate, a length)."""
    last = 0
    while last + 1 < min(LEADING, len(numeric) - 1) and not numeric[last + 1]:
        last += 1
    return list(range(last + 1))


def _widths(part: list[int], wished: Widths, least: Widths, numeric: Sequence[bool], width: int) -> Widths:
    """The least widths, and what is left over: to columns of text first, those that lack least, then to headers."""
    widths = {i: least[i] for i in part}
    spare = width - sum(widths.values()) - GAP * (len(part) - 1)
    for i in sorted(part, key=lambda i: (numeric[i], wished[i] - least[i])):
        more = max(0, min(spare, wished[i] - widths[i]))
        widths[i] += more
        spare -= more
    return widths
