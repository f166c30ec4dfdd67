"""The report of ``paceline bench kernel``: every operation against the roofline."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.bench.report import summary_json
from paceline.bench.roofline.kernels import Kernel, KernelBench
from paceline.bench.roofline.plots import Point, roofline_plot
from paceline.bench.roofline.work import Ceilings
from paceline.bench.sections import Cell, Plot, Report, Section, Series, Table
from paceline.bench.statistics import Summary, summarize

COLUMNS = ("MB", "MOP", "time [µs]", "q1", "q3", "GB/s", "GOP/s", "bound by", "of the bound [%]")
NOTE = (
    "One layer. MB: weights, or keys and values, read once; logits as they are written. MOP: multiplications and "
    "additions. Bound: the longer of MB / bandwidth and MOP / rate of the arithmetic."
)
ROOFLINE = "Every operation by its operations per byte, under the machine's ceilings."
ATTENTION = {
    "decode": "one row of each of as many sequences as there are rows",
    "verify": "all rows of one sequence, as when a draft is verified",
    "prefill": "a whole prompt with nothing before it",
}


def kernel_report(bench: KernelBench, model: str, rounds: int, command: str) -> Report:
    """All that was measured."""
    quiet, noise = bench.guard.verdict()
    call = summarize(bench.calls)
    products = [kernel for kernel in bench.kernels if kernel.shape == "product"]
    attention = [kernel for kernel in bench.kernels if kernel.shape != "product"]
    ceilings = bench.meter.ceilings
    sections = [
        Section("Ceilings", [_call_text(call, bench), *([noise] if quiet else [])], [bench.meter.table()]),
        *([_products(bench, products, ceilings)] if products else []),
        *([_attention(bench, attention, ceilings)] if attention else []),
        Section("Roofline", [ROOFLINE], plots=[roofline_plot(_points(bench), ceilings)]),
    ]
    settings: dict[str, Cell] = {
        "model": model,
        "backend": bench.backend,
        "threads": bench.threads,
        "rounds": rounds,
    }
    data = {
        "backend": bench.backend,
        "threads": bench.threads,
        "quiet": quiet,
        "noise": noise,
        "ceilings": bench.meter.data(),
        "call": summary_json(bench.calls),
        "skipped": bench.skipped,
        "kernels": [_json(bench, kernel, ceilings) for kernel in bench.kernels],
    }
    return Report("paceline bench kernel", command, sections, settings, data, [] if quiet else [noise])


def _call_text(call: Summary, bench: KernelBench) -> str:
    counts = sorted({kernel.count for kernel in bench.kernels})
    layers = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"A call that computes nothing takes {call.median * 1e6:.0f} µs. Every operation below was measured over "
        f"{layers} layers in one call and includes its share of that."
    )


def _row(bench: KernelBench, kernel: Kernel, ceilings: Ceilings) -> list[Cell]:
    summary, work = summarize(bench.values[kernel.name]), kernel.work
    return [
        work.nbytes / 1e6,
        work.total_ops / 1e6,
        *(seconds * 1e6 for seconds in (summary.median, summary.q1, summary.q3)),
        work.nbytes / summary.median / 1e9,
        work.total_ops / summary.median / 1e9,
        ceilings.binding(work),
        100 * ceilings.bound(work) / summary.median,
    ]


def _products(bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings) -> Section:
    rows = [[kernel.operation, kernel.rows, *_row(bench, kernel, ceilings)] for kernel in kernels]
    table = Table("Matrix products by rows", ("weight", "rows", *COLUMNS), rows, NOTE)
    return Section(
        "Matrix products",
        tables=[_share_table(bench, kernels, ceilings), table],
        plots=[_share_plot(bench, kernels, ceilings)],
    )


def _attention(bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings) -> Section:
    tables, plots, text = [], [], []
    for name in dict.fromkeys(kernel.operation for kernel in kernels):
        own = [kernel for kernel in kernels if kernel.operation == name]
        text.append(f"{name}: {ATTENTION[own[0].shape]}.")
        if own[0].shape != "prefill":
            tables += [_by_context(name, "time [µs]", bench, own), _by_context(name, "%", bench, own, ceilings)]
            plots.append(_context_plot(name, bench, own, ceilings))
    names = [kernel.operation for kernel in kernels]
    rows = [
        [kernel.operation, kernel.rows, kernel.context, *_row(bench, kernel, ceilings)]
        for kernel in sorted(kernels, key=lambda kernel: names.index(kernel.operation))
    ]
    tables.append(Table("Attention by rows and context", ("operation", "rows", "context", *COLUMNS), rows, NOTE))
    skipped = [f"Not measured: {reason}." for reason in bench.skipped]
    return Section("Attention", [*text, *skipped], tables, plots)


def _share(bench: KernelBench, kernel: Kernel, ceilings: Ceilings) -> float:
    return 100 * ceilings.bound(kernel.work) / summarize(bench.values[kernel.name]).median


def _share_table(bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings) -> Table:
    """Rows down, operations across."""
    names = list(dict.fromkeys(kernel.operation for kernel in kernels))
    shares = {(kernel.rows, kernel.operation): _share(bench, kernel, ceilings) for kernel in kernels}
    numbers = list(dict.fromkeys(kernel.rows for kernel in kernels))
    cells = [[rows, *(shares.get((rows, name)) for name in names)] for rows in numbers]
    return Table("Share of the bound [%]", ("rows", *names), cells)


def _by_context(
    name: str, what: str, bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings | None = None
) -> Table:
    """Rows down, contexts across: times, or with ``ceilings`` shares of the bound."""
    values = {
        (kernel.rows, kernel.context): _share(bench, kernel, ceilings)
        if ceilings
        else summarize(bench.values[kernel.name]).median * 1e6
        for kernel in kernels
    }
    contexts = list(dict.fromkeys(kernel.context for kernel in kernels))
    rows = list(dict.fromkeys(kernel.rows for kernel in kernels))
    title = f"{name}: share of the bound [{what}]" if ceilings else f"{name}: {what}"
    columns = ("rows", *(f"context {context}" for context in contexts))
    return Table(
        title, columns, [[number, *(values.get((number, context)) for context in contexts)] for number in rows]
    )


def _share_plot(bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings) -> Plot:
    series = []
    for name in dict.fromkeys(kernel.operation for kernel in kernels):
        own = [kernel for kernel in kernels if kernel.operation == name]
        shares = [_share(bench, kernel, ceilings) for kernel in own]
        series.append(Series(name, [kernel.rows for kernel in own], shares))
    rows = [kernel.rows for kernel in kernels]
    series.append(Series("the roofline", [min(rows), max(rows)], [100.0, 100.0], limit=True))
    return Plot("Matrix products: share of the bound", "rows", "share of the bound [%]", series, log_x=True)


def _context_plot(name: str, bench: KernelBench, kernels: Sequence[Kernel], ceilings: Ceilings) -> Plot:
    series = []
    numbers = sorted({kernel.rows for kernel in kernels})
    for number in sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}):  # more lines would hide each other
        own = [kernel for kernel in kernels if kernel.rows == number]
        x = [float(kernel.context or 0) for kernel in own]
        times = [summarize(bench.values[kernel.name]) for kernel in own]
        series.append(
            Series(
                f"{number} rows", x, [time.median * 1e6 for time in times],
                [time.q1 * 1e6 for time in times], [time.q3 * 1e6 for time in times],
            )
        )  # fmt: skip
        series.append(
            Series(f"{number} rows, bound", x, [ceilings.bound(kernel.work) * 1e6 for kernel in own], limit=True)
        )
    return Plot(f"{name}, one layer", "context [tokens]", "time [µs]", series, log_x=True, log_y=True)


def _points(bench: KernelBench) -> list[Point]:
    return [
        Point(kernel.operation, kernel.work, summarize(bench.values[kernel.name]).median) for kernel in bench.kernels
    ]


def _json(bench: KernelBench, kernel: Kernel, ceilings: Ceilings) -> dict[str, object]:
    seconds = summary_json(bench.values[kernel.name])
    return {
        "operation": kernel.operation,
        "shape": kernel.shape,
        "rows": kernel.rows,
        "context": kernel.context,
        "layers": kernel.count,
        "bytes": kernel.work.nbytes,
        "ops": dict(kernel.work.ops),
        "bound_seconds": ceilings.bound(kernel.work),
        "bound_by": ceilings.binding(kernel.work),
        "share_of_bound": ceilings.bound(kernel.work) / seconds["median"],
        "seconds": seconds,
    }
