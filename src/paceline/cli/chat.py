"""``paceline chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from paceline.llm import LLM
    from paceline.sampling.params import SamplingParams

HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer."


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
) -> None:
    """Talk with a model.

    When standard input is no terminal, each of its lines is a turn and only the answers are printed.
    """
    from paceline.errors import PacelineError
    from paceline.llm import LLM
    from paceline.sampling.params import SamplingParams

    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        seed=seed,
    )
    try:
        params.validate()
        with LLM(model, backend=backend, threads=threads, context_length=context_length, max_running=1) as llm:
            Conversation(llm, params, system).run(sys.stdin, sys.stdout)
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


class Conversation:
    """The turns so far, and the loop that adds to them."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None = None) -> None:
        self._llm = llm
        self._params = params
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._opening)

    def run(self, source: TextIO, target: TextIO) -> None:
        """Answers what ``source`` says until it ends. Raises ``PacelineError`` for what no other question could mend,
        such as a model without a chat template."""
        terminal = source.isatty()
        if terminal:
            _note(f"{self._llm.info.model}. {HELP}")
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
            elif command.startswith("/") and " " not in command:
                _note(f"There is no command {command}. {HELP}")
            else:
                self.answer(line, target, terminal)

    def answer(self, question: str, target: TextIO, terminal: bool = False) -> None:
        """Streams the answer to one question. A stopped answer stays in the conversation as far as it got; a question
        that cannot be answered does not."""
        from paceline.errors import InvalidRequestError

        self.messages.append({"role": "user", "content": question})
        pieces: list[str] = []
        started, count = time.perf_counter(), 0
        reason: str | None = None
        try:
            with closing(self._llm.chat_stream(self.messages, self._params)) as stream:
                for part in stream:
                    pieces.append(part.text)
                    target.write(part.text)
                    target.flush()
                    count += len(part.token_ids)
                    reason = part.finish_reason or reason
        except KeyboardInterrupt:
            reason = "stopped"
        except InvalidRequestError as error:
            self.messages.pop()
            if len(self.messages) == len(self._opening):
                raise
            _note(f"{error}. /reset starts anew.")
            return
        target.write("\n")
        target.flush()
        self.messages.append({"role": "assistant", "content": "".join(pieces)})
        if terminal:
            _note(_summary(count, time.perf_counter() - started, reason))


def _summary(count: int, seconds: float, reason: str | None) -> str:
    ends = {"stopped": ", stopped", "length": ", cut: no more tokens were allowed"}
    return f"{count} tokens, {count / max(seconds, 1e-9):.0f} tokens/s{ends.get(reason or '', '')}"


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
