"""Tables in the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import math

import pytest
from report_samples import LONG_NAME, sample_record
from rich.console import Console

from paceline.bench.output import terminal
from paceline.bench.output.cells import cell_text, repeated, right_aligned
from paceline.bench.output.columns import GAP, fit
from paceline.bench.output.csv_file import csv_text
from paceline.bench.output.terminal import markdown, markdown_text
from paceline.bench.report import number
from paceline.bench.sections import Table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (0.0, "0"), (0.000123, "0.000123"), (0.0123, "0.0123"),
        (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (-0.05, "-0.0500"), (7, "7"),
        (123456, "123456"), (True, "yes"), ("a\n b", "a b"), ("", ""), (2e-6, "2.00e-06"),
    ],
)  # fmt: skip
def test_cells_are_short(value: float | str | None, text: str) -> None:
    assert cell_text(value) == text


def test_numbers_keep_three_digits() -> None:
    assert [number(value) for value in (0.0999, 0.1, 99.95, 100.4)] == ["0.0999", "0.100", "100.0", "100"]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    rows = [["350 in", 1.5, "0.1 – 0.2", "1.3 ms (769 tokens/s)", "≥ 3 x llama.cpp on the same file", None]]
    table = Table("", ["a", "b", "c", "d", "e", "f"], rows)
    # A first column names its row, and a sentence is no number, although both begin with one.
    assert right_aligned(table) == [False, True, True, True, False, False]


def test_a_first_cell_is_repeated_only_when_it_is_the_same_text() -> None:
    assert repeated([["a", 1], ["a", 2], ["b", 2], [None, 1], [None, 2], [3, 1], [3, 1]]) == [
        False, True, False, False, False, False, False,
    ]  # fmt: skip
    assert repeated([["a"], ["a"]]) == [False, False]


def test_markdown_has_warnings_first_and_one_line_a_row() -> None:
    lines = markdown(sample_record(), plots_elsewhere=False).splitlines()
    assert lines[0] == "## A title & more"
    assert lines[2] == "> **Warning:** the client was late"
    assert lines[4] == "model tiny, threads 2"
    assert lines[6] == "Test CPU, 2 cores, 4 GiB, Linux, Python 3.11"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert [cell.strip() for cell in table[2].strip("|").split("|")] == ["A", "123", "0.15 – 0.25", "yes"]
    assert table[3].startswith("|  ")  # the engine of the row above
    assert "(no rows)" in lines
    assert lines[-1] == "2 plots: give --html FILE"


def test_markdown_does_not_mention_plots_that_a_page_shows() -> None:
    assert "--html" not in markdown(sample_record(), plots_elsewhere=True)


def test_markdown_escapes_what_would_end_a_cell() -> None:
    text = markdown_text(Table("", ["a|b"], [["x|y"]]))
    assert "a\\|b" in text and "x\\|y" in text


HEADER = ["engine", "time to first token [ms]", "output [tokens/s]", "quartiles", "why"]
ROWS = [["Paceline + drafts", "12.3", "1234", "1000 – 1300", "because of a long sentence about it"]]
NUMERIC = [False, True, True, True, False]


def test_a_table_that_fits_is_as_wide_as_its_texts() -> None:
    (widths,) = fit(HEADER, ROWS, NUMERIC, 200)
    assert list(widths.values()) == [17, 24, 17, 11, 35]


def test_headers_and_texts_are_broken_before_numbers_and_the_table_stays_in_the_terminal() -> None:
    (widths,) = fit(HEADER, ROWS, NUMERIC, 80)
    assert sum(widths.values()) + GAP * 4 <= 80
    assert widths[3] == 11 and widths[1] >= len("token")


def test_a_table_that_is_too_wide_is_cut_into_several_that_name_their_rows() -> None:
    header = ["rate", "engine", *(f"metric{i:02} [ms]" for i in range(12))]
    rows = [["1", "Paceline + drafts", *["1234.5"] * 12]]
    parts = fit(header, rows, [True, False, *[True] * 12], 80)
    assert len(parts) > 1
    assert all(list(part)[:2] == [0, 1] for part in parts)
    assert [i for part in parts for i in list(part)[2:]] == list(range(2, 14))
    assert all(sum(part.values()) + GAP * (len(part) - 1) <= 80 for part in parts)


def test_in_a_terminal_no_number_is_broken_and_brackets_are_no_markup() -> None:
    console = Console(width=60, force_terminal=True, color_system=None, highlight=False)
    with console.capture() as shown:
        terminal._draw(sample_record(), console, False)
    text = shown.get()
    assert text.index("WARNING: the client was late") < text.index("First")
    assert "[tokens/s]" in text and "0.15 – 0.25" in text
    assert max(map(len, text.splitlines())) <= 60
    assert LONG_NAME[:8] in text and "…" not in text


def test_csv_has_whole_numbers_empty_cells_for_no_value_and_titles_as_comments() -> None:
    blocks = csv_text([sample_record()]).split("\n\n")
    assert blocks[0].splitlines()[0] == "# A title & more"
    assert "# WARNING: the client was late" in blocks[0].splitlines()
    lines = blocks[1].splitlines()
    assert lines[0] == "# First: Speeds"
    rows = list(csv.reader(lines[1:]))
    assert rows[0] == ["engine", "decode [tokens/s]", "spread", "met"]
    assert rows[1] == ["A", "123.456789", "0.15 – 0.25", "yes"]
    assert rows[2] == ["A", "", "", "NO"]  # the engine is told in every row
    assert rows[3] == [LONG_NAME, "", "3 (2 – 4)", ""]
    assert blocks[2].splitlines() == ["# First: Empty", "a,b"]
