"""Outputs from the command line: refusals before measuring, pages from files, and one page of all commands."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from report_samples import sample_record, sample_report
from typer.testing import CliRunner

from paceline.bench.output.json_file import as_json, json_text
from paceline.bench.publish import publish
from paceline.cli.bench import app, everything

needs_plotly = pytest.mark.skipif(find_spec("plotly") is None, reason="pages need plotly: paceline[bench]")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("something ran")


@pytest.fixture
def report_file(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json_text(as_json(sample_record())))
    return path


@pytest.mark.parametrize("command", ["peers", "all", "report"])
def test_a_page_without_plotly_is_refused_before_anything_runs(
    command: str, report_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr("paceline.models.sources.resolve_model", refuse)
    files = [str(report_file)] if command == "report" else []
    result = CliRunner().invoke(app, [command, *files, "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert result.output == 'Error: --html needs plotly: pip install "paceline[bench]"\n'


def test_tables_and_values_need_no_plotly(report_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = CliRunner().invoke(app, ["report", str(report_file), "--csv", str(tmp_path / "tables.csv")])
    assert result.exit_code == 0, result.output
    publish(sample_report(), json=tmp_path / "r.json")


@needs_plotly
def test_publish_prints_and_writes_every_file_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "html")}
    publish(sample_report(), **paths)
    said = capsys.readouterr()
    assert said.out.startswith("## A title & more") and "--html" not in said.out
    assert said.err.splitlines() == [f"wrote {path}" for path in paths.values()]
    values = json.loads(paths["json"].read_text())
    assert values["created"].endswith("Z") and values["version"] == values["machine"]["paceline"]
    assert paths["csv"].read_text().startswith("# A title & more")
    assert paths["html"].read_text().startswith("<!DOCTYPE html>")


@needs_plotly
@pytest.mark.parametrize("option", ["--json", "--csv", "--html"])
@pytest.mark.parametrize("command", ["peers", "all"])
def test_files_that_cannot_be_written_are_refused_before_anything_runs(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr("paceline.models.sources.resolve_model", refuse)
    result = CliRunner().invoke(app, [command, option, str(tmp_path / "nowhere" / "file")])
    assert result.exit_code == 2
    assert result.output.startswith("Error: cannot write") and len(result.output.splitlines()) == 1


@needs_plotly
def test_one_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    result = CliRunner().invoke(app, ["peers", "--csv", path, "--html", path])
    assert result.exit_code == 2 and "named for two outputs" in result.output


def test_report_prints_the_tables_of_a_file(report_file: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(report_file)])
    assert result.exit_code == 0, result.output
    assert "the client was late" in result.output and "0.15 – 0.25" in result.output


@needs_plotly
def test_report_draws_one_page_of_several_files(report_file: Path, tmp_path: Path) -> None:
    several = tmp_path / "all.json"
    several.write_text(json_text({"step": {"seconds": 1}, "peers": as_json(sample_record())}))
    page, tables = tmp_path / "page.html", tmp_path / "tables.csv"
    options = ["--html", str(page), "--csv", str(tables), "--title", "Both"]
    result = CliRunner().invoke(app, ["report", str(report_file), str(several), *options])
    assert result.exit_code == 0, result.output
    assert "step: no tables or plots, only values" in result.output
    assert page.read_text().count("<article") == 2 and "<title>Both</title>" in page.read_text()
    assert tables.read_text().count("# First: Speeds") == 2


@needs_plotly
def test_report_refuses_files_of_others_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"a": 1}')
    result = CliRunner().invoke(app, ["report", str(path), "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ") and len(result.output.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


@needs_plotly
@pytest.mark.parametrize("order", [0, 1])
def test_report_does_not_write_over_what_it_reads(report_file: Path, order: int) -> None:
    options = [[str(report_file)], ["--html", str(report_file)]]
    result = CliRunner().invoke(app, ["report", *options[order], *options[1 - order]])
    assert result.exit_code == 2 and "both read and written" in result.output


@needs_plotly
def test_all_makes_one_page_of_what_ran_and_says_what_has_no_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[4:])
        name, file = command[4], Path(command[-1])
        if name == "peers":
            file.write_text(json_text(as_json(sample_record())))
        elif name == "step":
            file.write_text('{"seconds": 1}')
        return subprocess.CompletedProcess(command, -9 if name == "spec" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    paths = {name: tmp_path / f"all.{name}" for name in ("json", "csv", "html")}
    options = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    result = CliRunner().invoke(app, ["all", "tiny", "--threads", "1", "--rounds", "4", *options])
    assert result.exit_code == 1  # spec was killed
    assert [(command[0], command[command.index("--rounds") + 1]) for command in asked] == [
        ("step", "12"),
        ("spec", "2"),
        ("peers", "4"),
    ]
    assert all(command[1:4] == ["tiny", "--threads", "1"] for command in asked)
    assert "step: no tables or plots, only values" in result.output
    assert set(json.loads(paths["json"].read_text())) == {"step", "peers"}
    for told in ("spec ended with exit status 1", "spec told no values"):
        assert told in result.output and told in paths["html"].read_text()
    assert "A title &amp; more" in paths["html"].read_text()
    assert "# First: Speeds" in paths["csv"].read_text()


@needs_plotly
def test_all_without_any_tables_still_writes_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "_measure", lambda common, rounds: ({"step": {"seconds": 1}}, {"step": 0}))
    values, page = tmp_path / "all.json", tmp_path / "all.html"
    result = CliRunner().invoke(app, ["all", "--json", str(values), "--html", str(page)])
    assert result.exit_code == 2 and "no tables" in result.output
    assert values.exists() and not page.exists()


def test_outputs_are_imported_only_when_needed() -> None:
    code = "import sys, paceline.cli; sys.exit(bool({'jinja2', 'msgspec', 'plotly'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
