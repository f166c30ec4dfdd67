"""``paceline train``: an adapter, its speculator, or both, from rows to a folder that ``serve`` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_INTERRUPTED = 130  # exit status of a program that Ctrl-C ended
_ADAPTER, _SPECULATOR, _MACHINE = "Training of the adapter", "Training of the speculator", "Machine"


def train(
    kind: Annotated[
        str, typer.Argument(help="lora: an adapter. turbo-lora: an adapter and its speculator. turbo: a speculator.")
    ],
    data: Annotated[Path, typer.Option(help="Rows: JSON lines with messages, or with prompt and completion.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to be made.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder, .gguf file, Hub id or alias.")] = "",
    adapter: Annotated[Path | None, typer.Option(help="turbo: the folder of the adapter that it is for.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a row. Default: the model's context.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the rows that are only measured with.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    rank: Annotated[int, typer.Option(help="Rank of the updates.", rich_help_panel=_ADAPTER)] = 16,
    alpha: Annotated[
        float | None,
        typer.Option(help="Scale of the updates, times rank. Default: 2 x rank.", rich_help_panel=_ADAPTER),
    ] = None,
    targets: Annotated[
        str, typer.Option(help="Layers, as q_proj,v_proj. Default: all linear ones.", rich_help_panel=_ADAPTER)
    ] = "",
    learning_rate: Annotated[float, typer.Option(help="Highest one.", rich_help_panel=_ADAPTER)] = 5e-4,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the rows. Default: by their number.", rich_help_panel=_ADAPTER)
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step. Default: by the data.", rich_help_panel=_ADAPTER)
    ] = None,
    dropout: Annotated[float, typer.Option(help="Of the updates' inputs.", rich_help_panel=_ADAPTER)] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Evaluations without a lower held-out loss before it ends.", rich_help_panel=_ADAPTER)
    ] = 4,
    max_texts: Annotated[
        int, typer.Option(help="Most answers that it learns from.", rich_help_panel=_SPECULATOR)
    ] = 4000,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of an answer. Default: by the rows' answers.", rich_help_panel=_SPECULATOR)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the answers.", rich_help_panel=_SPECULATOR)] = 0.0,
    draft_vocabulary: Annotated[
        int | None, typer.Option(help="Tokens it can propose. Default: by the answers.", rich_help_panel=_SPECULATOR)
    ] = None,
    positions: Annotated[int, typer.Option(help="Tokens of a draft.", rich_help_panel=_SPECULATOR)] = 6,
    speculator_steps: Annotated[
        int | None, typer.Option(help="Default: by the answers.", rich_help_panel=_SPECULATOR)
    ] = None,
    speculator_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate.", rich_help_panel=_SPECULATOR)
    ] = None,
    speculator_start: Annotated[
        str,
        typer.Option(
            help="Folder of a speculator to start from; auto: the one that the package brings; none.",
            rich_help_panel=_SPECULATOR,
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_MACHINE)] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of matrix products: auto, f32 or bf16.", rich_help_panel=_MACHINE)
    ] = "auto",
    backend: Annotated[str, typer.Option(help="Of the engine: auto, cpu or torch.", rich_help_panel=_MACHINE)] = "auto",
    threads: Annotated[int | None, typer.Option(help="Compute threads.", rich_help_panel=_MACHINE)] = None,
) -> None:
    """Train an adapter, its speculator, or both.

    A training that was stopped goes on where it was when the same command is given again. The folder appears when it is
    complete.
    """
    import os
    import signal

    # Torch's threads wait for each other thousands of times in a step. Where they spin meanwhile, one of them that has
    # to share its core makes all of them slow. It counts if it is set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from paceline.errors import PacelineError
    from paceline.training.report import TerminalReporter
    from paceline.training.settings import LoraSettings, SpeculatorSettings, TrainSettings
    from paceline.training.stages import train as run_training

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped service, too, says how to go on
    settings = TrainSettings(
        kind=kind,  # type: ignore[arg-type]  # checked with the rest
        data=data,
        output=output.expanduser(),
        model=model,
        adapter=adapter,
        max_length=max_length,
        held_out=held_out,
        seed=seed,
        overwrite=overwrite,
        lora=LoraSettings(
            rank=rank,
            alpha=alpha,
            targets=tuple(name.strip() for name in targets.split(",") if name.strip()),
            learning_rate=learning_rate,
            epochs=epochs,
            batch_tokens=batch_tokens,
            dropout=dropout,
            patience=patience,
        ),
        speculator=SpeculatorSettings(
            texts=max_texts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            vocabulary=draft_vocabulary,
            positions=positions,
            steps=speculator_steps,
            learning_rate=speculator_rate,
            start=speculator_start,
        ),
        device=device,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        backend=backend,
        threads=threads,
    )
    try:
        report = run_training(settings, TerminalReporter())
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped. Run the same command again to go on; the work so far is in {settings.output}.partial.", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo(f"{output}: {report['kind']} for {report['model']}")
