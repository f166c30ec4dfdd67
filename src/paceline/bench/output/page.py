"""A report as one HTML file that opens from disk: no network, no other file; tables can be read without its script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from paceline.bench.output.cells import cell_text, has_value, repeated, right_aligned
from paceline.bench.output.plot_values import colours_of, left_out
from paceline.bench.output.plots import AREA, figure
from paceline.bench.output.record import Record, machine_text, settings_text
from paceline.bench.sections import Cell, Plot, Section, Table

SHORT = 24  # characters of a text that stays on its line
CONTENTS_FROM = 4  # sections from which a page has a table of contents


@dataclass(frozen=True, slots=True)
class CellView:
    """``sort``: what the column is sorted by, empty for no value. ``kind``: classes of the style: right (a number),
    again (the text of the row above), short (not to be broken)."""

    text: str
    sort: str
    kind: str


@dataclass(frozen=True, slots=True)
class TableView:
    title: str
    columns: Sequence[tuple[str, bool]]  # with whether it is aligned to the right
    rows: Sequence[Sequence[CellView]]
    note: str


@dataclass(frozen=True, slots=True)
class PlotView:
    """``rows`` of the grid of plots that it takes. ``figure``: plotly's JSON, without any "<"; empty for no values."""

    title: str
    rows: int
    figure: Markup
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class SectionView:
    anchor: str
    title: str
    text: Sequence[str]
    tables: Sequence[TableView]
    plots: Sequence[PlotView]


@dataclass(frozen=True, slots=True)
class RecordView:
    anchor: str
    title: str
    command: str
    made: str
    machine: str
    warnings: Sequence[str]
    settings: Sequence[tuple[str, str]]
    sections: Sequence[SectionView]


def page(records: Sequence[Record], title: str = "", warnings: Sequence[str] = ()) -> str:
    """The file's text. Several records stand below each other under ``title``, and so does one under another's title;
    without a title one has its own. ``warnings``: about the page as a whole."""
    colours = iter(colours_of([plot for record in records for plot in _plots(record)]))
    same = Counter(record.report.title for record in records)
    views = [
        _record_view(record, f"r{number}", colours, with_time=same[record.report.title] > 1)
        for number, record in enumerate(records, 1)
    ]
    grouped = len(views) > 1 or (bool(views) and title not in ("", records[0].report.title))
    with_contents = sum(len(view.sections) for view in views) >= CONTENTS_FROM or grouped
    style = Markup((_folder() / "page.css").read_text(encoding="utf-8"))
    script = Markup((_folder() / "page.js").read_text(encoding="utf-8"))
    title = title or (records[0].report.title if len(records) == 1 else f"{len(records)} reports")
    told = {"title": title, "records": views, "warnings": warnings, "grouped": grouped, "with_contents": with_contents}
    drawn = any(plot.figure for view in views for section in view.sections for plot in section.plots)
    return _template().render(**told, style=style, script=script, plotly=_plotly() if drawn else "")


def _plotly() -> Markup:
    """plotly.js, whole: the page may be opened without a network."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _plots(record: Record) -> Iterator[Plot]:
    for section in record.report.sections:
        yield from section.plots


def _folder() -> Path:
    return Path(__file__).parent / "template"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_folder()),
        autoescape=True,  # names of models and servers come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _record_view(record: Record, anchor: str, colours: Iterator[list[str]], *, with_time: bool) -> RecordView:
    """``with_time``: in the title, as another record has the same one."""
    report = record.report
    when = record.created.replace("T", " ").removesuffix("Z")
    return RecordView(
        anchor,
        f"{report.title}, {when}" if with_time else report.title,
        report.command,
        f"{when} UTC, Paceline {record.version}",
        machine_text(record),
        report.warnings,
        settings_text(report),
        [_section_view(each, f"{anchor}s{i}", colours) for i, each in enumerate(report.sections, 1)],
    )


def _section_view(section: Section, anchor: str, colours: Iterator[list[str]]) -> SectionView:
    tables = [table_view(table, section.title) for table in section.tables]
    plots = [plot_view(plot, next(colours)) for plot in section.plots]
    return SectionView(anchor, section.title, section.text, tables, plots)


def table_view(table: Table, section_title: str = "") -> TableView:
    """A table whose title repeats that of its section has none."""
    numeric, again = right_aligned(table), repeated(table.rows)
    rows = [
        [_cell_view(cell, right, same and i == 0) for i, (cell, right) in enumerate(zip(row, numeric, strict=True))]
        for row, same in zip(table.rows, again, strict=True)
    ]
    title = "" if table.title == section_title else table.title
    return TableView(title, list(zip(table.columns, numeric, strict=True)), rows, table.note)


def _cell_view(cell: Cell, number: bool, again: bool) -> CellView:
    sort = "" if not has_value(cell) else str(int(cell) if isinstance(cell, bool) else cell)
    text = cell_text(cell)
    kinds = ("right", number), ("again", again), ("short", len(text) <= SHORT)
    return CellView(text, sort, " ".join(kind for kind, told in kinds if told))


def plot_view(plot: Plot, colours: Sequence[str]) -> PlotView:
    notes = [plot.note] if plot.note else []
    drawn = figure(plot, colours)
    if drawn is None:
        return PlotView(plot.title, 1, Markup(), ["no values to draw", *notes])
    if unseen := left_out(plot):
        notes.append(f"not on the logarithmic axis: values of zero or less ({unseen})")
    rows = max(1, round(drawn.layout.meta["area"] / AREA * 0.8))
    return PlotView(plot.title, rows, Markup(drawn.to_json().replace("<", "\\u003c")), notes)
