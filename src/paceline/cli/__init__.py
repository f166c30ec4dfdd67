"""The command line: one file a command. Heavy imports stay inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli import bench, chat, plan, run, serve, train

app = typer.Typer(
    help="LLM inference engine and server in which speculative decoding is the way decoding works.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from paceline.server.version import version

        typer.echo(f"paceline {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(serve.serve)
app.command()(chat.chat)
app.command()(run.run)
app.command()(train.train)
app.command()(plan.plan)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point of the ``paceline`` command."""
    app(prog_name="paceline")
