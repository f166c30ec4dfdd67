"""Progress: bars for a terminal, lines for a log, nothing that runs on its own."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from paceline.bench import progress
from paceline.bench.progress import Lines, Progress, Silent, shown


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(told: Progress) -> None:
    told.start(3, "starts")
    told.advance()
    told.say("one [bold]of[/bold] them")
    told.advance(2)
    told.start(1, "the rest")


def test_a_log_has_a_line_for_each_stage_and_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as told:
        assert isinstance(told, Lines)
        work(told)
    assert capsys.readouterr().err.splitlines() == ["starts (3)", "one [bold]of[/bold] them", "the rest"]


def test_a_terminal_has_a_bar_that_goes_on_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    before = threading.active_count()
    with shown() as told:
        work(told)
        assert threading.active_count() == before  # none that would draw while something is measured
    text = terminal.getvalue()
    assert "1/3" in text and "3/3" in text and "0/1" in text
    assert "one [bold]of[/bold] them" in text
    assert text.rstrip().endswith("\x1b[2K")  # the last bar was wiped


def test_nothing_is_drawn_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown() as told:
        told.start(1000, "steps")
        drawn = len(terminal.getvalue())
        threading.Event().wait(0.3)
        assert len(terminal.getvalue()) == drawn


def test_frequent_steps_are_not_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown() as told:
        told.start(100_000, "steps")
        before = len(terminal.getvalue())
        for _ in range(50):
            told.advance()
        assert len(terminal.getvalue()) - before < 3000


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    work(Silent())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
