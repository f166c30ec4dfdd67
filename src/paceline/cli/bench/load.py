"""What ``bench serve`` and ``bench compare`` share: options about load, and the way from them to a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from paceline.bench.load.lineup import Lineup, Places
    from paceline.bench.load.loads import Load
    from paceline.bench.load.settings import Settings
    from paceline.bench.load.sweep import Sweep
    from paceline.bench.load.targets import LoadTarget
    from paceline.bench.load.workloads import Workload
    from paceline.bench.sections import Report

RATES = "1,2,4,8,12,16,20"
QUICK_RATES = "1,4"
QUICK_SECONDS = 5.0
GOODPUT = "ttft:500,tpot:50"
LATE_LIMIT = 10.0
ROWS_TOKENS = 128  # of answers to a file's own rows

_LOAD = "Load"
_REQUESTS = "Requests"
_MEASURING = "Measuring"

ApiOption = Annotated[
    Literal["auto", "chat", "completions"],
    typer.Option(help="auto: chat, or completions where a chat is refused.", rich_help_panel=_REQUESTS),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="PACELINE_API_KEY", help="Key of the servers given by URL.", rich_help_panel=_REQUESTS),
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="preference, ner or qa; repeat it. Default: all.", rich_help_panel=_REQUESTS),
]
Rows = Annotated[
    list[Path] | None,
    typer.Option(
        "--rows", exists=True, dir_okay=False, rich_help_panel=_REQUESTS,
        help='Requests of one\'s own: JSON lines with "messages" (as for paceline train) or "prompt"; repeat it.',
    ),
]  # fmt: skip
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME[=FOLDER]", rich_help_panel=_REQUESTS,
        help="Measure also with requests spread evenly over this adapter, further ones (repeat it) and the base model. "
        "FOLDER: for a server that is started here.",
    ),
]  # fmt: skip
Rates = Annotated[
    list[str] | None,
    typer.Option("--rate", help="Arrivals a second; repeat it, or a list with commas.", rich_help_panel=_LOAD),
]
Concurrency = Annotated[
    list[str] | None,
    typer.Option(help="Closed loop: so many requests at a time; repeat it, or a list.", rich_help_panel=_LOAD),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="Replay a trace (Azure, Mooncake or ServeGen).", rich_help_panel=_LOAD),
]
Speedup = Annotated[
    list[str] | None,
    typer.Option(help="Replay the trace so many times as fast; a list. Default: 1.", rich_help_panel=_LOAD),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Replay only the trace's first requests.", rich_help_panel=_LOAD)
]
TraceStart = Annotated[
    float, typer.Option(min=0.0, help="Begin the replay at this second of the trace.", rich_help_panel=_LOAD)
]
Arrivals = Annotated[
    Literal["poisson", "constant"], typer.Option(help="How requests of a rate arrive.", rich_help_panel=_LOAD)
]
Duration = Annotated[
    float | None,
    typer.Option(min=0.1, help="Seconds of arrivals at a point. Default: 20, or --requests.", rich_help_panel=_LOAD),
]
Requests = Annotated[
    int | None,
    typer.Option(min=1, help="Most requests of a point. Default of a closed loop: 8 a place.", rich_help_panel=_LOAD),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Longest answer. Default: the scenario's; 128 for --rows.", rich_help_panel=_REQUESTS),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos/--natural-end", rich_help_panel=_REQUESTS,
        help="Answers of exactly the longest length, or ones that end by themselves.",
    ),
]  # fmt: skip
Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="0: greedy.", rich_help_panel=_REQUESTS)]
Repeats = Annotated[int | None, typer.Option(min=1, help="Default: 2; --quick: 1.", rich_help_panel=_MEASURING)]
WarmUp = Annotated[
    int, typer.Option(min=0, help="Unmeasured requests before a scenario's first point.", rich_help_panel=_MEASURING)
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.", rich_help_panel=_MEASURING)]
Drain = Annotated[
    float,
    typer.Option(
        min=0.1, help="Seconds after the last arrival; then open requests are errors.", rich_help_panel=_MEASURING
    ),
]
UntilSaturated = Annotated[
    bool,
    typer.Option(
        help="Skip higher rates once under 80% of arrivals are answered and TTFT P50 is over 10 s.",
        rich_help_panel=_MEASURING,
    ),
]
GoodputOption = Annotated[str, typer.Option(help="Latency target in ms: ttft, tpot, e2e.", rich_help_panel=_MEASURING)]
Dollars = Annotated[
    float | None,
    typer.Option(min=0.0, help="Price of the machine, for $ a million tokens.", rich_help_panel=_MEASURING),
]
LateLimit = Annotated[
    float, typer.Option(min=0.1, help="A client later than this (ms, P99) is INVALID.", rich_help_panel=_MEASURING)
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Two rates, 5 s each, once: a first look.", rich_help_panel=_MEASURING)
]
Seed = Annotated[int, typer.Option(help="Draws arrivals and the order of texts.", rich_help_panel=_MEASURING)]
Records = Annotated[
    Path | None,
    typer.Option(help="Also write every request with all its times, as JSON lines.", rich_help_panel=_MEASURING),
]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options say about requests and load."""

    scenarios: list[str] | None
    rows: list[Path] | None
    rates: list[str] | None
    concurrency: list[str] | None
    trace: Path | None
    speedups: list[str] | None
    limit: int | None
    trace_start: float
    max_tokens: int | None
    data: Path | None
    quick: bool
    default_rates: str


def settings(
    quick: bool,
    repeats: int | None,
    duration: float | None,
    requests: int | None,
    late_limit: float,
    goodput: str,
    **rest: Any,
) -> Settings:
    """The options about measuring, checked. Raises ``GoodputError``."""
    from paceline.bench.load.metrics import Goodput
    from paceline.bench.load.settings import DURATION, Settings

    if duration is None and requests is None:
        duration = QUICK_SECONDS if quick else DURATION
    return Settings(
        repeats=repeats or (1 if quick else 2),
        duration=duration,
        requests=requests,
        late_limit=late_limit / 1e3,
        goodput=Goodput.parse(goodput),
        **rest,
    )


def lineup(model: str, threads: int | None, adapters: dict[str, str], api: Any, api_key: str | None) -> Lineup:
    from paceline.bench.load.lineup import Lineup, Places
    from paceline.engine.machine import usable_cores

    key = api_key.split()[0] if api_key and api_key.strip() else None
    return Lineup(Places.from_environment(), model, threads or usable_cores(), adapters, api, key)


def places(known: Places, **given: str) -> Places:
    """Places of peers from variables, with those that options name instead."""
    from dataclasses import fields, replace

    named = {name: place for name, place in given.items() if place}
    own = {field.name for field in fields(known)}
    peers = replace(known.peers, **{name: place for name, place in named.items() if name not in own})  # type: ignore[arg-type]
    return replace(known, peers=peers, **{name: place for name, place in named.items() if name in own})  # type: ignore[arg-type]


def workloads(wish: Wish, settings: Settings, adapters: list[str]) -> list[Workload]:
    """Scenarios and trace at their loads. Raises ``DataError`` and ``LoadError``."""
    from paceline.bench.load.loads import LoadError

    if wish.trace is None and (wish.speedups or wish.limit or wish.trace_start):
        raise LoadError("--speedup, --limit and --trace-start are about a trace: give --trace FILE")
    found: list[Workload] = []
    asked = wish.scenarios or wish.rows or wish.rates or wish.concurrency
    if wish.trace is None or asked:
        found += _scenarios(wish, settings, adapters)
    if wish.trace is not None:
        found.append(_trace(wish, settings, wish.trace))
    return found


def _loads(wish: Wish) -> list[Load]:
    from paceline.bench.load.loads import Load, parse_numbers

    default = [QUICK_RATES if wish.quick else wish.default_rates]
    rates = parse_numbers(wish.rates or ([] if wish.concurrency else default), "--rate")
    places = parse_numbers(wish.concurrency or [], "--concurrency", whole=True)
    return [*(Load("rate", rate) for rate in rates), *(Load("concurrency", number) for number in places)]


def _scenarios(wish: Wish, settings: Settings, adapters: list[str]) -> list[Workload]:
    """Each scenario on the base model, and with adapters where there are any."""
    from paceline.bench.load.scenarios import NAMED_SCENARIOS, own_rows, texts_of
    from paceline.bench.load.workloads import ScenarioWorkload

    names = wish.scenarios or ([] if wish.rows else list(NAMED_SCENARIOS))
    unknown = sorted(set(names) - set(NAMED_SCENARIOS))
    if unknown:
        raise typer.BadParameter(f"no scenario {', '.join(unknown)}; there are {', '.join(NAMED_SCENARIOS)}")
    found: list[tuple[str, str, Any, int | None, int]] = []
    for name in dict.fromkeys(names):
        scenario = NAMED_SCENARIOS[name]
        texts = texts_of(scenario, wish.data, settings.seed)
        tokens = wish.max_tokens or scenario.max_tokens
        title = f"{scenario.title}, about {scenario.prompt_tokens} tokens in, at most {tokens} out"
        found.append((name, title, texts, scenario.prompt_tokens, tokens))
    for path in wish.rows or ():
        tokens = wish.max_tokens or ROWS_TOKENS
        found.append((path.name, f"rows of {path.name}, at most {tokens} tokens out", own_rows(path), None, tokens))
    variants = [("", [""]), *([(f" + {', '.join(adapters)}", ["", *adapters])] if adapters else [])]
    return [
        ScenarioWorkload(f"{name}{suffix}", title, texts, tokens_in, tokens, models, _loads(wish), settings)
        for name, title, texts, tokens_in, tokens in found
        for suffix, models in variants
    ]


def _trace(wish: Wish, settings: Settings, path: Path) -> Workload:
    from paceline.bench.load.loads import Load, parse_numbers
    from paceline.bench.load.trace_texts import read_corpus
    from paceline.bench.load.traces import Window, read_trace
    from paceline.bench.load.workloads import TraceWorkload

    speedups = parse_numbers(wish.speedups or ["1"], "--speedup")
    seconds = None if settings.duration is None else settings.duration * max(speedups)
    limit = min((n for n in (wish.limit, settings.requests) if n is not None), default=None)
    trace = read_trace(path, Window(wish.trace_start, limit, seconds, settings.seed))
    return TraceWorkload(trace, [Load("trace", speedup) for speedup in speedups], settings, read_corpus(wish.data))


def run(
    targets: Sequence[LoadTarget], workloads: Sequence[Workload], settings: Settings, records: Path | None
) -> Sweep:
    """Measures everything; progress on standard error."""
    import asyncio
    import contextlib
    import signal

    from paceline.bench.load.sweep import Sweep
    from paceline.cli.bench import options

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with its clean-up: no server stays behind
    with contextlib.ExitStack() as stack:
        raw = None if records is None else stack.enter_context(records.open("w"))
        sweep = Sweep(targets, workloads, settings, say=lambda text: typer.echo(text, err=True), raw=raw)
        with asyncio.Runner(loop_factory=options.event_loop) as runner:
            runner.run(sweep.run())
    return sweep  # also after Ctrl-C, with what was measured until then


def finish(sweep: Sweep, report: Report, json: Path | None, csv: Path | None, html: Path | None) -> None:
    """Shows the report, and ends with its status."""
    from paceline.bench.publish import publish
    from paceline.cli.bench import options

    if not sweep.points:
        typer.echo("nothing was measured", err=True)
    else:
        with options.errors_in_one_line():
            publish(report, json=json, csv=csv, html=html)
    if sweep.interrupted:
        raise typer.Exit(130)
    if sweep.failures:
        raise typer.Exit(1)


def command_line() -> str:
    """The command as it was typed, without keys."""
    words = ["paceline", *sys.argv[1:]]
    for place, word in enumerate(words):
        if word == "--api-key" and place + 1 < len(words):
            words[place + 1] = "..."
        elif word.startswith("--api-key="):
            words[place] = "--api-key=..."
    return shlex.join(words)
