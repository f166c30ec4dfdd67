"""Reports with everything that an output has to cope with."""

from __future__ import annotations

import math

from paceline.bench.output.record import Record
from paceline.bench.sections import Plot, Report, Section, Series, Table

LONG_NAME = "a model / 日本語 <b>served</b> by somebody under a name that no table has room for"


def sample_report() -> Report:
    table = Table(
        "Speeds",
        ["engine", "decode [tokens/s]", "spread", "met"],
        [["A", 123.456789, "0.15 – 0.25", "yes"], ["A", math.nan, "", "NO"], [LONG_NAME, None, "3 (2 – 4)", None]],
        "A note.",
    )
    lines = Series("A", [1, 2, 4], [1.0, math.nan, 3.0], [0.9, math.nan, 2.5], [1.1, math.nan, 3.5])
    plots = [
        Plot("Latency", "rate [1/s]", "TTFT [s]", [lines, Series("target", [1, 4], [2.0, 2.0], limit=True)]),
        Plot("Bars", "set", "AL", [Series("A", ["chat", "edit"], [1.5, 2.5]), Series("B", ["chat"], [1.0])], "bar"),
    ]
    sections = [Section("First", ["Some <i>text</i>."], [table, Table("Empty", ["a", "b"], [])], plots)]
    return Report(
        "A title & more",
        "paceline bench test 'a b'",
        sections,
        {"model": "tiny", "threads": 2},
        {"measurements": {"ttft": [1.0, math.inf]}},
        ["the client was late"],
    )


def sample_record() -> Record:
    machine = {"cpu": "Test CPU", "cores": 2, "memory_gib": 4.0, "system": "Linux", "python": "3.11", "torch": None}
    return Record(sample_report(), "2026-01-02T03:04:05Z", "0.1.0", machine)
