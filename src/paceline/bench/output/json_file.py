"""Reports as JSON: every value, and the sections, so that a page can be drawn again without measuring again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from paceline.bench.output.files import OutputError
from paceline.bench.output.record import Record
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table

FORMAT = "paceline-bench/1"
#: Names at the top of a file; a report's own ``data`` stands beside them, under other names.
HEAD = ("format", "title", "command", "created", "version", "machine", "settings", "warnings", "sections")


def check_names(report: Report) -> None:
    """Raises ``ValueError`` when ``data`` would hide a part of the head: a mistake in the command, not in its use."""
    clash = sorted(set(HEAD) & set(report.data))
    if clash:
        raise ValueError(f"data of a report must not be named {', '.join(clash)}: the file's head has these names")


def as_json(record: Record) -> dict[str, Any]:
    """What the file holds. Numbers that are not finite become null, which all readers of JSON know."""
    report = record.report
    check_names(report)
    head = {
        "format": FORMAT,
        "title": report.title,
        "command": report.command,
        "created": record.created,
        "version": record.version,
        "machine": record.machine,
        "settings": report.settings,
        "warnings": list(report.warnings),
    }
    sections = [asdict(section) for section in report.sections]
    plain: dict[str, Any] = _finite({**head, **report.data, "sections": sections})
    return plain


def json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(_finite(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Series(msgspec.Struct):
    """As in ``sections``; missing numbers are null here."""

    name: str
    x: list[str | float | None]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    limit: bool = False


class _Plot(msgspec.Struct):
    title: str
    x_title: str
    y_title: str
    series: list[_Series]
    kind: Literal["line", "bar", "scatter"] = "line"
    log_x: bool = False
    log_y: bool = False
    note: str = ""


class _Table(msgspec.Struct):
    title: str
    columns: list[str]
    rows: list[list[bool | Cell]]
    note: str = ""


class _Section(msgspec.Struct):
    title: str
    text: list[str] = []
    tables: list[_Table] = []
    plots: list[_Plot] = []


class _File(msgspec.Struct):
    title: str
    command: str
    created: str
    version: str
    machine: dict[str, Any]
    sections: list[_Section]
    settings: dict[str, bool | Cell] = {}
    warnings: list[str] = []


def read_records(path: Path) -> tuple[list[Record], list[str]]:
    """The reports in a file of ``--json``: one, or one by command as ``paceline bench all`` writes them; and the
    commands whose values are there without tables.

    Raises ``OutputError`` for any other file, and says what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise OutputError(f"{path} is not JSON ({error}); give files that a bench command wrote with --json") from error
    if isinstance(values, dict) and "format" not in values:
        records, without = records_of(values, str(path))
        if records:
            return records, without
    return [from_json(values, str(path))], []


def records_of(values: Mapping[str, Any], source: str) -> tuple[list[Record], list[str]]:
    """The reports in a mapping by command, and the commands whose values have no tables (``OutputError``, as
    ``from_json``)."""
    parts = {name: part for name, part in values.items() if isinstance(part, dict) and name not in HEAD}
    records = [from_json(part, f"{name} in {source}") for name, part in parts.items() if "format" in part]
    return records, [name for name, part in parts.items() if "format" not in part]


def from_json(values: Any, source: str) -> Record:
    """A record out of what ``as_json`` made; ``source`` names it in errors (``OutputError``)."""
    told = values.get("format") if isinstance(values, dict) else None
    if told is None:
        raise OutputError(
            f'{source} holds no report of a bench command (no "format"); give files written with --json by this '
            "version: older ones hold values only, without tables"
        )
    if told != FORMAT:
        raise OutputError(
            f"{source} has the format {told!r}, this version reads {FORMAT}; use the Paceline that wrote it"
        )
    try:
        file = msgspec.convert(values, _File)
        for section in file.sections:
            for table in section.tables:
                _check_rows(table)
    except (msgspec.ValidationError, ValueError) as error:
        raise OutputError(f"{source} was changed after it was written, or cut: {error}") from error
    data = {name: value for name, value in values.items() if name not in HEAD}
    sections = [_section(section) for section in file.sections]
    report = Report(file.title, file.command, sections, file.settings, data, file.warnings)
    return Record(report, file.created, file.version, file.machine)


def _check_rows(table: _Table) -> None:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"table {table.title!r} has a row of {len(row)} cells under {len(table.columns)} columns")


def _section(section: _Section) -> Section:
    tables = [Table(table.title, table.columns, table.rows, table.note) for table in section.tables]
    return Section(section.title, section.text, tables, [_plot(plot) for plot in section.plots])


def _plot(plot: _Plot) -> Plot:
    series = [
        Series(each.name, _axis(each.x), _numbers(each.y), _spread(each.low), _spread(each.high), each.limit)
        for each in plot.series
    ]
    return Plot(plot.title, plot.x_title, plot.y_title, series, plot.kind, plot.log_x, plot.log_y, plot.note)


def _axis(values: Sequence[str | float | None]) -> Sequence[float] | Sequence[str]:
    if any(isinstance(value, str) for value in values):
        return ["" if value is None else str(value) for value in values]
    return _numbers([value for value in values if not isinstance(value, str)])


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _spread(values: Sequence[float | None] | None) -> list[float] | None:
    return None if values is None else _numbers(values)
