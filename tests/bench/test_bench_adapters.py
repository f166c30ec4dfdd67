"""The measurement of adapters prints a line for each number of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paceline.bench import adapters

pytest.importorskip("paceline._cpu", reason="the native core was not built")


@pytest.mark.model
def test_steps_with_more_adapters_are_measured_beside_the_one_without(
    default_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters.main(["--model", str(default_model), "--rounds", "2", "--rank", "4", "--sequences", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"4 adapters: 9\.8 MB, read in \d+\.\d\d ms", lines[0])
    assert [int(line.split()[0]) for line in lines[1:]] == list(adapters.COUNTS)
    assert lines[1].endswith("1.00 x the step without")
