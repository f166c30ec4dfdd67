"""A report with where and when it was made: what files and pages show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paceline.bench.machine import machine
from paceline.bench.output.cells import cell_text
from paceline.bench.sections import Report


@dataclass(frozen=True, slots=True)
class Record:
    """``created``: ISO 8601, UTC, to the second. ``machine``: as ``bench.machine`` tells it."""

    report: Report
    created: str
    version: str
    machine: Mapping[str, Any]


def record(report: Report) -> Record:
    """The report as of now, on this machine."""
    here = machine()
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Record(report, created, str(here.get("paceline") or "unknown"), here)


def settings_text(report: Report) -> list[tuple[str, str]]:
    """Names and values for people; what is a warning, too, is said there."""
    texts = [(name, cell_text(value)) for name, value in report.settings.items()]
    said = {" ".join(warning.split()) for warning in report.warnings}
    return [(name, text) for name, text in texts if text not in said]


def machine_text(record: Record) -> str:
    """One line about the machine; what a file does not tell is left out."""
    told = record.machine
    memory = told.get("memory_gib")
    parts = [
        told.get("cpu"),
        f"{told['cores']} cores" if told.get("cores") else None,
        f"{memory:g} GiB" if isinstance(memory, int | float) else None,
        told.get("system"),
        f"Python {told['python']}" if told.get("python") else None,
        f"torch {told['torch']}" if told.get("torch") else None,
    ]
    return ", ".join(str(part) for part in parts if part)
