"""``paceline bench``: one file a command."""

from __future__ import annotations

import typer

from paceline.cli.bench import compare, diagnose, everything, kernel, peers, quality, report, serve, spec, step

app = typer.Typer(
    help="Measure: step times against memory bandwidth, what speculation gains, and whole servers against their peers.",
    no_args_is_help=True,
)

app.command(name="kernel")(kernel.kernel)
app.command(name="step")(step.step)
app.command(name="spec")(spec.spec)
app.command(name="peers")(peers.peers)
app.command(name="serve")(serve.serve)
app.command(name="compare")(compare.compare)
app.command(name="quality")(quality.quality)
app.command(name="diagnose")(diagnose.diagnose)
app.command(name="all")(everything.run_all)
app.command(name="report")(report.report)
