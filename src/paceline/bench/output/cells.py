"""What every output needs to know of a table's cells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from paceline.bench.report import number
from paceline.bench.sections import Cell, Table

NO_VALUE = "–"
_LIKE_A_NUMBER = re.compile(r"[<>≤≥~≈+−-]? ?\.?\d")  # "≤ 4 s", "0.15 – 0.25", "1.3 ms (769 tokens/s)"
_WORDS = re.compile(r"[^\W\d_]+")
_UNITS = 3  # words that may stand beside such numbers: more make a sentence


def has_value(cell: Cell) -> bool:
    """Not so None, and numbers that are not finite: what was divided by nothing, or never measured."""
    return cell is not None and not (isinstance(cell, float) and not math.isfinite(cell))


def cell_text(cell: Cell) -> str:
    """A cell for people: three significant digits, a dash for no value, one line."""
    if cell is None or not has_value(cell):
        return NO_VALUE
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return number(cell) if isinstance(cell, float) else " ".join(str(cell).split())


def right_aligned(table: Table) -> list[bool]:
    """By column: whether it holds numbers (or text such as "0.15 – 0.25"), which are read from the right."""
    return [_is_numeric(table, column) for column in range(len(table.columns))]


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if has_value(row[column]) and row[column] != ""]
    numbers = [cell for cell in cells if not isinstance(cell, str | bool)]
    texts = [cell for cell in cells if isinstance(cell, str)]
    # A first column of text names its row, even when the name begins with a digit.
    like_numbers = column > 0 and all(map(_like_a_number, texts))
    return bool(cells) and (len(numbers) == len(cells) or (like_numbers and len(texts) + len(numbers) == len(cells)))


def _like_a_number(text: str) -> bool:
    return bool(_LIKE_A_NUMBER.match(text)) and len(_WORDS.findall(text)) <= _UNITS


def repeated(rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """By row: whether its first cell is the same text as the one above, so that a reader need not see it again."""
    if not rows or len(rows[0]) < 2:
        return [False] * len(rows)
    same = [isinstance(row[0], str) and row[0] == above[0] for above, row in pairwise(rows)]
    return [False, *same]
