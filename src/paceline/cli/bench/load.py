"""The way from options about load to a run, and from a run to its report; for ``bench serve`` and ``bench compare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from paceline.cli.bench import options
from paceline.cli.bench.load_options import LoadOptions
from paceline.cli.bench.server_key import first_key

if TYPE_CHECKING:
    from paceline.bench.load.lineup import Lineup, Places
    from paceline.bench.load.loads import Load
    from paceline.bench.load.settings import Settings
    from paceline.bench.load.sweep import Sweep
    from paceline.bench.load.targets import LoadTarget
    from paceline.bench.load.workloads import Workload
    from paceline.bench.sections import Report

QUICK_RATES = "1,4"
QUICK_SECONDS = 5.0
ROWS_TOKENS = 128  # of answers to a file's own rows


def settings_of(load: LoadOptions, seconds: float) -> Settings:
    """The options about measuring, checked; ``seconds``: of arrivals at a point by default. Raises ``GoodputError``."""
    from paceline.bench.load.metrics import Goodput
    from paceline.bench.load.settings import Settings

    duration = load.duration
    if duration is None and load.requests is None:
        duration = QUICK_SECONDS if load.quick else seconds
    return Settings(
        repeats=load.repeats or (1 if load.quick else 2),
        duration=duration,
        requests=load.requests,
        process=load.arrivals,
        timeout=load.timeout,
        drain=load.drain,
        warm_ups=load.warm_up,
        until_saturated=load.until_saturated,
        late_limit=load.late_limit / 1e3,
        goodput=Goodput.parse(load.goodput),
        dollars_per_hour=load.dollars_per_hour,
        temperature=load.temperature,
        ignore_eos=load.ignore_eos,
        seed=load.seed,
    )


def lineup_of(load: LoadOptions, model: str, threads: int | None, places: Places | None = None) -> Lineup:
    """What targets are made with. Raises ``TargetSpecError``."""
    from paceline.bench.load.lineup import Lineup, Places, parse_adapters
    from paceline.engine.machine import usable_cores

    adapters = parse_adapters(load.adapter or ())
    return Lineup(
        places or Places(), model, threads or usable_cores(), adapters, load.api, first_key(load.api_key or "")
    )


def workloads_of(load: LoadOptions, settings: Settings, adapters: Sequence[str], rates: str) -> list[Workload]:
    """Scenarios and trace at their loads; ``rates`` unless others were named. Raises ``DataError``, ``LoadError``."""
    from paceline.bench.load.loads import LoadError

    if load.trace is None and (load.speedup or load.limit or load.trace_start):
        raise LoadError("--speedup, --limit and --trace-start are about a trace: give --trace FILE")
    found: list[Workload] = []
    if load.trace is None or load.scenario or load.rows or load.rate or load.concurrency:
        found += _scenarios(load, settings, adapters, _loads(load, QUICK_RATES if load.quick else rates))
    if load.trace is not None:
        found.append(_trace(load, settings))
    return found


def _loads(load: LoadOptions, rates: str) -> list[Load]:
    from paceline.bench.load.loads import Load, parse_numbers

    named = load.rate or ([] if load.concurrency else [rates])
    open_loops = [Load("rate", rate) for rate in parse_numbers(named, "--rate")]
    places = parse_numbers(load.concurrency or [], "--concurrency", whole=True)
    return [*open_loops, *(Load("concurrency", number) for number in places)]


def _scenarios(load: LoadOptions, settings: Settings, adapters: Sequence[str], loads: Sequence[Load]) -> list[Workload]:
    """Each scenario on the base model, and with adapters where there are any."""
    from paceline.bench.load.scenarios import NAMED_SCENARIOS, own_rows, texts_of
    from paceline.bench.load.workloads import ScenarioWorkload

    names = load.scenario or ([] if load.rows else list(NAMED_SCENARIOS))
    unknown = sorted(set(names) - set(NAMED_SCENARIOS))
    if unknown:
        raise typer.BadParameter(f"no scenario {', '.join(unknown)}; there are {', '.join(NAMED_SCENARIOS)}")
    found: list[tuple[str, str, Any, int | None, int]] = []
    for name in dict.fromkeys(names):
        scenario = NAMED_SCENARIOS[name]
        tokens = load.max_tokens or scenario.max_tokens
        title = f"{scenario.title}, about {scenario.prompt_tokens} tokens in, at most {tokens} out"
        found.append((name, title, texts_of(scenario, load.data, settings.seed), scenario.prompt_tokens, tokens))
    for path in load.rows or ():
        tokens = load.max_tokens or ROWS_TOKENS
        found.append((path.name, f"a file's own rows, at most {tokens} tokens out", own_rows(path), None, tokens))
    variants = [("", [""]), *([(f" + {', '.join(adapters)}", ["", *adapters])] if adapters else [])]
    return [
        ScenarioWorkload(f"{name}{suffix}", title, texts, tokens_in, tokens, models, loads, settings)
        for name, title, texts, tokens_in, tokens in found
        for suffix, models in variants
    ]


def _trace(load: LoadOptions, settings: Settings) -> Workload:
    from paceline.bench.load.loads import Load, parse_numbers
    from paceline.bench.load.trace_texts import read_corpus
    from paceline.bench.load.traces import Window, read_trace
    from paceline.bench.load.workloads import TraceWorkload

    assert load.trace is not None
    speedups = parse_numbers(load.speedup or ["1"], "--speedup")
    duration = load.duration if load.limit is not None else settings.duration
    seconds = None if duration is None else duration * max(speedups)
    limit = min((number for number in (load.limit, settings.requests) if number is not None), default=None)
    trace = read_trace(load.trace, Window(load.trace_start, limit, seconds, settings.seed))
    loads = [Load("trace", speedup) for speedup in speedups]
    return TraceWorkload(trace, loads, duration, settings.seed, read_corpus(load.data))


def run(targets: Sequence[LoadTarget], workloads: Sequence[Workload], settings: Settings, load: LoadOptions) -> Sweep:
    """Measures everything; progress on standard error. After Ctrl-C it has what was measured until then."""
    import asyncio
    import contextlib
    import signal

    from paceline.bench.client import event_loop
    from paceline.bench.load.sweep import Sweep
    from paceline.bench.progress import shown

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with its clean-up: no server stays behind
    with contextlib.ExitStack() as stack:
        raw = None if load.records is None else stack.enter_context(load.records.open("w"))
        sweep = Sweep(targets, workloads, settings, stack.enter_context(shown()), raw)
        with asyncio.Runner(loop_factory=event_loop) as runner:
            runner.run(sweep.run())
    return sweep


def finish(sweep: Sweep, report: Report, load: LoadOptions) -> None:
    """Shows the report, and ends with its status."""
    from paceline.bench.publish import publish

    if sweep.points:
        with options.errors_in_one_line():
            publish(report, json=load.json_file, csv=load.csv_file, html=load.html_file)
    else:
        typer.echo("nothing was measured", err=True)
    if sweep.interrupted:
        raise typer.Exit(130)
    if sweep.failures:
        raise typer.Exit(1)
