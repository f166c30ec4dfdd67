"""A finding with everything that was seen, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from paceline.bench.diagnose.decide import Finding
from paceline.bench.diagnose.observations import Observations
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table

Row = tuple[str, Cell]


def diagnosis_report(
    finding: Finding, seen: Observations, command: str, settings: Mapping[str, Cell], notes: Sequence[str]
) -> Report:
    """The whole report."""
    texts = [finding.summary, f"What would help most: {finding.action}"]
    if finding.beside:
        texts.append(f"Found as well, and to be looked at again after that change: {' '.join(finding.beside)}")
    sections = [
        Section("Finding", texts, [_evidence(finding)]),
        Section("What was seen", (), _tables(seen), _plots(seen)),
    ]
    if finding.unseen:
        sections.append(Section("What could not be seen", list(finding.unseen)))
    data = {"finding": asdict(finding), "observations": asdict(seen)}
    return Report("Diagnosis of a running server", command, sections, settings, data, notes)


def _evidence(finding: Finding) -> Table:
    return Table("", ("evidence",), [[line] for line in finding.evidence])


def _tables(seen: Observations) -> list[Table]:
    named: list[tuple[str, list[Row]]] = [
        ("The server's own metrics", _traffic(seen)),
        ("Requests of this command, medians", _probes(seen)),
        ("The machine", _machine(seen)),
    ]
    return [Table(title, ("what", "value"), rows) for title, rows in named if rows]


def _traffic(seen: Observations) -> list[Row]:
    traffic = seen.traffic
    if traffic is None:
        return []
    a_second = 1 / traffic.seconds
    return [
        ("watched [s]", traffic.seconds),
        ("requests begun a second", _times(traffic.requests, a_second)),
        ("sequences running, mean", traffic.running),
        ("sequences running, most", traffic.peak_running),
        ("sequences waiting, mean", traffic.waiting),
        ("KV cache in use, most [%]", _times(traffic.kv_usage, 100)),
        ("preemptions", traffic.preemptions),
        ("prompt tokens a second", _times(traffic.prompt_tokens, a_second)),
        ("of them found in the prefix cache [%]", _times(traffic.prefix_hits, 100)),
        ("new tokens a second", _times(traffic.generation_tokens, a_second)),
        ("waiting of a request, mean [ms]", _times(traffic.queue, 1000)),
        ("its prompt, mean [ms]", _times(traffic.prefill, 1000)),
        ("its answer, mean [ms]", _times(traffic.decode, 1000)),
        ("a token after the first, mean [ms]", _times(traffic.tpot, 1000)),
        ("engine busy [%]", _times(traffic.busy, 100)),
        ("drafts verified", traffic.drafts),
    ]


def _probes(seen: Observations) -> list[Row]:
    probes = seen.probes
    if probes is None:
        return []
    return [
        ("an answer without work [ms]", 1000 * probes.round_trip),
        (f"to the first token, {probes.short_tokens} prompt tokens [ms]", 1000 * probes.short_ttft),
        (f"to the first token, {probes.long_tokens} prompt tokens [ms]", 1000 * probes.long_ttft),
        ("prompt tokens a second, from the growth", probes.prefill_rate),
        ("a token after the first [ms]", _times(probes.tpot, 1000)),
        ("tokens a second of one stream", None if probes.tpot is None else 1 / probes.tpot),
    ]


def _machine(seen: Observations) -> list[Row]:
    rows: list[Row] = [("timers late, 90th percentile [ms]", 1000 * seen.lag)]
    local = seen.local
    if local is None:
        return rows
    return [
        *rows,
        ("cores", local.cores),
        ("cores that the server keeps busy", local.server_cores),
        ("cores that others keep busy", local.other_cores),
        ("free memory [GiB]", local.free_bytes / 2**30),
        ("memory [GiB]", local.total_bytes / 2**30),
    ]


def _plots(seen: Observations) -> list[Plot]:
    traffic, probes = seen.traffic, seen.probes
    plots = []
    if traffic is not None and traffic.request_seconds:
        parts = (traffic.queue, traffic.prefill, traffic.decode)
        bars = Series("a request", ["waiting", "prompt", "answer"], [1000 * (part or 0.0) for part in parts])
        plots.append(Plot("Where a request's time goes", "part", "mean time [ms]", [bars], kind="bar"))
    if probes is not None:
        lengths, times = (probes.short_tokens, probes.long_tokens), (probes.short_ttft, probes.long_ttft)
        line = Series("time to first token", [float(n) for n in lengths], [1000 * t for t in times])
        plots.append(Plot("Time to first token by prompt length", "prompt [tokens]", "time [ms]", [line]))
    return plots


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
