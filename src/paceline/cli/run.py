"""``paceline run``: an offline batch, in OpenAI's batch format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli import adapters
from paceline.cli import speculation as flags

_INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def run(
    file: Annotated[Path, typer.Argument(help="Requests: JSON lines with custom_id, method, url and body.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Answers. An existing file is completed.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder, .gguf file, Hub id or alias.")] = "",
    any_model: Annotated[
        bool,
        typer.Option("--any-model", help="Answer requests that name another model, too, instead of refusing them."),
    ] = False,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests in the engine at once. Default: chosen for the engine.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads.")] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Most tokens of a request and its answer.")] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Most sequences computed at once.")] = None,
    adapter: adapters.Adapter = None,
    adapter_dir: adapters.AdapterDir = None,
    max_adapters: adapters.MaxAdapters = None,
    adapter_cache_mb: adapters.AdapterCacheMb = None,
    speculate: flags.Speculate = None,
    max_draft: flags.MaxDraft = None,
    draft_model: flags.DraftModel = None,
    speculator: flags.Speculator = None,
    sampling: flags.Sampling = None,
    speculative_config: flags.SpeculativeConfig = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar on standard error.")] = True,
) -> None:
    """Answer all requests in a file.

    A run that was stopped goes on where it was: requests whose answers are in OUTPUT are skipped, failed ones are
    tried again. The `model` of a request may name an adapter. The exit status is 1 when a request failed.
    """
    import asyncio

    from paceline.cli.batch import run_batch
    from paceline.engine.options import EngineOptions
    from paceline.errors import PacelineError

    try:
        options = EngineOptions(
            model=model,
            backend=backend,
            threads=threads,
            context_length=context_length,
            max_running=max_running,
            adapters=adapters.adapter_folders(adapter, adapter_dir, [model] if model else ()),
            max_adapters=max_adapters,
            adapter_cache_bytes=adapters.cache_bytes(adapter_cache_mb),
            speculation=flags.speculation_options(
                speculate, max_draft, draft_model, sampling, speculative_config, speculator
            ),
        )
        failed = asyncio.run(run_batch(file, output, options, any_model, concurrency, progress))
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(f"Stopped. Run the same command again to go on; answers so far are in {output}.", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if failed:
        raise typer.Exit(1)
