"""What the user of ``paceline bench spec`` asked for, with the defaults of the method that was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import typer

from paceline.bench.sections import Report
from paceline.bench.speculation.methods import METHODS, QUICK, SETS, SPEC_BENCH, SPEED_BENCH, Method
from paceline.bench.speculation.speed_bench.splits import QUALITATIVE, THROUGHPUT
from paceline.bench.speculation.speed_bench.throughput import LENGTHS
from paceline.cli.bench.number_lists import draft_lengths, integers, temperatures
from paceline.sampling.speculative import MAX_DRAFT

QUICK_LENGTHS = LENGTHS[:2]
SHOWN_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The command line as it was typed; the properties have what it means."""

    model: str
    method: str
    quick: bool
    loads: Sequence[str] | None
    rounds: int | None
    max_tokens: int | None
    temperature: Sequence[str] | None
    draft_length: Sequence[str] | None
    seed: int
    data: Path | None
    answers: Path | None
    json: Path | None
    csv: Path | None
    html: Path | None
    sets: Sequence[str] | None
    rows: Path | None
    prompts: int | None
    split: Sequence[str] | None
    prompts_per_category: int | None
    input_length: Sequence[str] | None
    speculate: str
    draft_model: str
    speculator: str
    adapter: Path | None
    prefix_cache: bool | None
    backend: str
    threads: int | None
    url: str
    baseline_url: str
    api_key: str

    @cached_property
    def plan(self) -> Method:
        """The method's defaults with what was given in their place."""
        usual = (QUICK if self.quick else METHODS)[self.method]
        prompts = self.prompts_per_category if self.method == SPEED_BENCH else self.prompts
        return Method(
            usual.title,
            integers(self.loads, "--load") or usual.loads,
            self.rounds or usual.rounds,
            self.max_tokens or usual.max_tokens,
            temperatures(self.temperature, "--temperature") or usual.temperatures,
            usual.prefix_cache if self.prefix_cache is None else self.prefix_cache,
            draft_lengths(self.draft_length, "--draft-length", MAX_DRAFT) or usual.draft_lengths,
            usual.prompts if prompts is None else prompts,
        )

    @property
    def splits(self) -> list[str]:
        """SPEED-Bench's that are wanted. Raises ``BadParameter``."""
        known = (QUALITATIVE, THROUGHPUT)
        names = [name.strip() for value in self.split or known for name in value.split(",") if name.strip()]
        for name in names:
            if name not in known:
                raise typer.BadParameter(f"no split {name!r}; there are {', '.join(known)}", param_hint="--split")
        return list(dict.fromkeys(names))

    @property
    def lengths(self) -> Sequence[int]:
        """Input lengths of the throughput split, in tokens."""
        given = integers(self.input_length, "--input-length", 256)
        return given or (QUICK_LENGTHS if self.quick else LENGTHS)

    def check(self) -> None:
        """Raises ``BadParameter`` for what does not go together, before anything is loaded."""
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise typer.BadParameter(f"no method {self.method!r}; there are {known}", param_hint="--method")
        for option, value, method in (
            ("--set", self.sets, SETS),
            ("--rows", self.rows, SETS),
            ("--split", self.split, SPEED_BENCH),
            ("--prompts-per-category", self.prompts_per_category, SPEED_BENCH),
            ("--input-length", self.input_length, SPEED_BENCH),
        ):
            if value is not None and method != self.method:
                raise typer.BadParameter(f"it belongs to --method {method}, not {self.method}", param_hint=option)
        if self.prompts is not None and self.method == SPEED_BENCH:
            raise typer.BadParameter("SPEED-Bench counts by category: --prompts-per-category", param_hint="--prompts")
        if self.answers is not None and self.method == SETS:
            raise typer.BadParameter(
                f"only {SPEC_BENCH} and {SPEED_BENCH} have a form for answers; --json has all values of {SETS}",
                param_hint="--answers",
            )
        self._check_place()
        _ = self.splits, self.lengths

    def _check_place(self) -> None:
        if self.url:
            self._check_server()
        elif self.baseline_url:
            raise typer.BadParameter("it goes with --url", param_hint="--baseline-url")
        elif self.method != SPEED_BENCH and max(len(self.plan.temperatures), len(self.plan.draft_lengths)) > 1:
            raise typer.BadParameter(
                f"--method {self.method} takes one temperature and one draft length; {SPEED_BENCH} takes several"
            )

    def _check_server(self) -> None:
        for option, value in (
            ("--speculate", self.speculate if self.speculate != "auto" else None),
            ("--draft-model", self.draft_model or None),
            ("--speculator", self.speculator or None),
            ("--adapter", self.adapter),
            ("--prefix-cache", self.prefix_cache),
            ("--backend", self.backend if self.backend != "auto" else None),
            ("--threads", self.threads),
        ):
            if value is not None:
                raise typer.BadParameter("with --url the server decides, by how it was started", param_hint=option)

    def publish(self, report: Report) -> None:
        """Shows the report and writes the files that were named."""
        from paceline.bench.publish import publish

        publish(report, json=self.json, csv=self.csv, html=self.html)


def tell_problems(title: str, lines: Sequence[str], error: bool = True) -> None:
    """The first of ``lines`` below ``title``, on standard error if they are errors."""
    if lines:
        typer.echo(f"{title} ({len(lines)}):", err=error)
        for line in lines[:SHOWN_PROBLEMS]:
            typer.echo(f"  {line}", err=error)


def progress(text: str) -> None:
    typer.echo(text, err=True)
