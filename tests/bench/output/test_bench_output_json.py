"""JSON files: what they hold, and that a report comes back from them as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import sample_record

from paceline.bench.output.csv_file import csv_text
from paceline.bench.output.files import OutputError
from paceline.bench.output.json_file import as_json, from_json, json_text, read_records
from paceline.bench.output.page import page
from paceline.bench.output.terminal import markdown


def written(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json_text(values) if isinstance(values, dict) else json.dumps(values))
    return path


def test_file_has_head_measured_values_and_sections() -> None:
    values = json.loads(json_text(as_json(sample_record())))
    assert values["title"] == "A title & more"
    assert values["command"] == "paceline bench test 'a b'"
    assert (values["created"], values["version"]) == ("2026-01-02T03:04:05Z", "0.1.0")
    assert values["machine"]["cores"] == 2
    assert values["settings"] == {"model": "tiny", "threads": 2}
    assert values["warnings"] == ["the client was late"]
    assert values["measurements"] == {"ttft": [1.0, None]}  # infinity is no number in JSON
    assert values["sections"][0]["tables"][0]["rows"][0][1] == 123.456789


def test_a_report_that_was_read_looks_the_same_in_every_output(tmp_path: Path) -> None:
    record = sample_record()
    ((again,), without) = read_records(written(tmp_path, as_json(record)))
    assert without == []
    assert csv_text([again]) == csv_text([record])
    assert markdown(again, plots_elsewhere=False) == markdown(record, plots_elsewhere=False)
    assert again.report.data == {"measurements": {"ttft": [1.0, None]}}
    pytest.importorskip("plotly")
    assert page([again]) == page([record])


def test_missing_points_are_null_and_come_back_as_nan() -> None:
    again = from_json(json.loads(json_text(as_json(sample_record()))), "file")
    y = again.report.sections[0].plots[0].series[0].y
    assert (y[0], y[2]) == (1.0, 3.0) and math.isnan(y[1])


def test_numpy_numbers_and_paths_are_written() -> None:
    record = sample_record()
    data = {"array": np.arange(2), "number": np.float32(0.5), "path": Path("/a"), "keys": {1: 2}}
    values = json.loads(json_text(as_json(replace(record, report=replace(record.report, data=data)))))
    assert (values["array"], values["number"], values["path"], values["keys"]) == ([0, 1], 0.5, "/a", {"1": 2})


def test_data_under_a_name_of_the_head_is_a_mistake() -> None:
    record = sample_record()
    with pytest.raises(ValueError, match="settings"):
        as_json(replace(record, report=replace(record.report, data={"settings": {}})))


def test_files_of_bench_all_hold_a_report_for_each_command(tmp_path: Path) -> None:
    values = {"step": {"seconds": 1}, "spec": as_json(sample_record()), "peers": as_json(sample_record())}
    records, without = read_records(written(tmp_path, values))
    assert [record.report.title for record in records] == ["A title & more"] * 2
    assert without == ["step"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], 'holds no report of a bench command (no "format")'),
        ({"measurements": {}}, 'holds no report of a bench command (no "format")'),
        ({"step": {"seconds": 1}}, 'holds no report of a bench command (no "format")'),
        ({"format": "paceline-bench/9"}, "has the format 'paceline-bench/9', this version reads paceline-bench/1"),
        ({"format": "paceline-bench/1"}, "missing required field `title`"),
    ],
)
def test_files_of_others_are_refused_with_the_reason(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(OutputError) as refusal:
        read_records(written(tmp_path, values))
    assert message in str(refusal.value) and "report.json" in str(refusal.value)


def test_a_changed_file_is_refused_with_the_place(tmp_path: Path) -> None:
    values = as_json(sample_record())
    values["sections"][0]["tables"][0]["rows"][1].pop()
    with pytest.raises(OutputError, match=r"row of 3 cells under 4 columns"):
        read_records(written(tmp_path, values))
    values["sections"][0]["title"] = 7
    with pytest.raises(OutputError, match=r"\$\.sections\[0\]\.title"):
        read_records(written(tmp_path, values))


def test_text_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<html>")
    with pytest.raises(OutputError, match=r"report\.html is not JSON"):
        read_records(path)
