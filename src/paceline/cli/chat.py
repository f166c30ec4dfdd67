"""``paceline chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from paceline.cli import adapters
from paceline.cli import speculation as flags

if TYPE_CHECKING:
    from paceline.cli.draft_display import DraftDisplay
    from paceline.engine.speculation_report import SpeculationReport
    from paceline.llm import LLM
    from paceline.sampling.params import SamplingParams

HELP = "/reset forgets the conversation, /adapter NAME changes who answers, /exit or Ctrl-D leaves, Ctrl-C stops."


def chat(
    model: Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")] = "",
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens of this total probability.")] = 0.95,
    top_k: Annotated[int, typer.Option(help="Sample from this many of the likeliest tokens; 0: from all.")] = 0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the likeliest one.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: repeat less.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer. Default: up to the context.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampled answers repeatable.")] = None,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads.")] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Most tokens of the conversation.")] = None,
    show_drafts: Annotated[
        bool, typer.Option("--show-drafts", help="Mark the text by who drafted it, with statistics of each answer.")
    ] = False,
    adapter: adapters.Adapter = None,
    adapter_dir: adapters.AdapterDir = None,
    speculate: flags.Speculate = None,
    max_draft: flags.MaxDraft = None,
    draft_model: flags.DraftModel = None,
    speculator: flags.Speculator = None,
    sampling: flags.Sampling = None,
    speculative_config: flags.SpeculativeConfig = None,
) -> None:
    """Talk with a model.

    When standard input is no terminal, each of its lines is a turn and only the answers are printed. With one
    --adapter, that one answers; /adapter NAME changes to another, /adapter alone to the base model.
    """
    from paceline.errors import PacelineError
    from paceline.sampling.params import SamplingParams
    from paceline.sampling.speculative import Speculative

    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
        speculative=Speculative(report=True) if show_drafts else None,
    )
    try:
        params.validate()
        speculation = flags.speculation_options(
            speculate, max_draft, draft_model, sampling, speculative_config, speculator
        )
        folders = adapters.adapter_folders(adapter, adapter_dir, [model] if model else ())
        from paceline.llm import LLM  # imports torch: not before the flags are known to be right

        with LLM(
            model,
            backend=backend,
            threads=threads,
            context_length=context_length,
            max_running=1,
            adapters=folders,
            speculation=speculation,
        ) as llm:
            speaker = next(iter(folders)) if adapter is not None and len(adapter) == 1 else None
            Conversation(llm, params, system, speaker).run(sys.stdin, sys.stdout)
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


class Conversation:
    """The turns so far, and the loop that adds to them. Drafts are shown when ``params`` want a report."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None = None, adapter: str | None = None) -> None:
        self._llm = llm
        self.adapter = adapter  # that answers; None: the base model
        self._params = params
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._opening)

    def run(self, source: TextIO, target: TextIO) -> None:
        """Answers what ``source`` says until it ends. Raises ``PacelineError`` for what no other question could mend,
        such as a model without a chat template."""
        terminal = source.isatty()
        if terminal:
            _note(f"{self._llm.info.model}. {HELP}")
        display = self._display(target)
        for line in _lines(source, terminal):
            command = line.strip()
            if not command:
                continue
            if command in ("/exit", "/quit"):
                return
            if command == "/reset":
                self.messages = list(self._opening)
                if terminal:
                    _note("The conversation is forgotten.")
            elif command.split()[0] == "/adapter":
                self._change_adapter(command.removeprefix("/adapter").strip() or None, terminal)
            elif command.startswith("/") and " " not in command:
                _note(f"There is no command {command}. {HELP}")
            else:
                self.answer(line, target, terminal, display)

    def _change_adapter(self, name: str | None, terminal: bool) -> None:
        """From now on ``name`` answers; the conversation stays."""
        if name is not None and name not in self._llm.adapters:
            _note(f"There is no adapter {name!r}; there are: {', '.join(self._llm.adapters) or 'none'}.")
            return
        self.adapter = name
        if terminal:
            _note("The base model answers." if name is None else f"The adapter {name!r} answers.")

    def _display(self, target: TextIO) -> DraftDisplay | None:
        """What marks drafts, when they are to be shown; its legend is printed."""
        if not self._params.wants_report:
            return None
        from rich.console import Console

        from paceline.cli.draft_display import DraftDisplay

        display = DraftDisplay(target, self._llm.info.drafters)
        Console(stderr=True).print(display.legend())
        return display

    def answer(
        self, question: str, target: TextIO, terminal: bool = False, display: DraftDisplay | None = None
    ) -> None:
        """Streams the answer to one question, marked by ``display``. A stopped answer stays in the conversation as far
        as it got; a question that cannot be answered does not."""
        from paceline.errors import InvalidRequestError

        self.messages.append({"role": "user", "content": question})
        pieces: list[str] = []
        started, count = time.perf_counter(), 0
        reason: str | None = None
        report: SpeculationReport | None = None
        if display is not None:
            display.begin()
        try:
            with closing(self._llm.chat_stream(self.messages, self._params, adapter=self.adapter)) as stream:
                for part in stream:
                    pieces.append(part.text)
                    target.write(part.text if display is None else display.show(part))
                    target.flush()
                    count += len(part.token_ids)
                    reason, report = part.finish_reason or reason, part.speculation
        except KeyboardInterrupt:
            reason = "stopped"
        except InvalidRequestError as error:
            self.messages.pop()
            if len(self.messages) == len(self._opening):
                raise
            _note(f"{error}. /reset starts anew.")
            return
        target.write("\n" if display is None else display.end() + "\n")
        target.flush()
        self.messages.append({"role": "assistant", "content": "".join(pieces)})
        if terminal or display is not None:
            _note(_summary(count, time.perf_counter() - started, reason, report))


def _summary(count: int, seconds: float, reason: str | None, report: SpeculationReport | None) -> str:
    from paceline.cli.draft_display import statistics

    ends = {"stopped": ", stopped", "length": ", cut: no more tokens were allowed"}
    drafts = "" if report is None else statistics(report, count)
    speed = f"{count} tokens, {count / max(seconds, 1e-9):.0f} tokens/s"
    return speed + (f", {drafts}" if drafts else "") + ends.get(reason or "", "")


def _lines(source: TextIO, terminal: bool) -> Iterator[str]:
    """What is typed, or what stands in the pipe, line by line."""
    if not terminal:
        for line in source:
            yield line.rstrip("\n")
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (input() then edits lines and has a history)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            _note(HELP)


def _note(text: str) -> None:
    """A remark that is not part of any answer."""
    from rich.console import Console

    Console(stderr=True).print(text, style="dim", markup=False, highlight=False)
