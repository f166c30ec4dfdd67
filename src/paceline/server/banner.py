"""What a user reads when the server is up: where it is, how to try it, what was chosen and why."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from paceline.engine.messages import Choice, EngineReady
from paceline.learning.settings import LearnOptions
from paceline.server.config import MIB, ServerConfig

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def base_url(config: ServerConfig) -> str:
    """Where this machine reaches the server."""
    host = _ANYWHERE.get(config.host) or (f"[{config.host}]" if ":" in config.host else config.host)
    return f"http://{host}:{config.port}"


def curl(config: ServerConfig, chat: bool) -> str:
    """A command to copy and paste."""
    path, content = "completions", dict[str, Any](prompt="Cyclists ride in a line because")
    if chat:
        path, content = "chat/completions", {"messages": [{"role": "user", "content": "Why do cyclists draft?"}]}
    lines = [f"curl {base_url(config)}/v1/{path}", "-H 'Content-Type: application/json'"]
    if config.api_keys:
        lines.append('-H "Authorization: Bearer $PACELINE_API_KEY"')
    lines.append("-d " + shlex.quote(json.dumps({**content, "max_tokens": 64})))
    return " \\\n  ".join(lines)


def server_choices(config: ServerConfig) -> list[Choice]:
    """The HTTP side of the report."""
    keys = len(config.api_keys)
    names = ", ".join(config.model_names)
    return [
        *([] if config.learn is None else [_learning_choice(config.learn)]),
        Choice("model names", names, "what clients may put into `model`; none is fine, too"),
        Choice("api keys", f"{keys}" if keys else "none", "set with --api-key or PACELINE_API_KEY"),
        Choice("max body", f"{config.max_body_bytes // MIB} MiB", "larger requests get 413 (--max-body-mb)"),
    ]


def _learning_choice(learn: LearnOptions) -> Choice:
    """What is kept where, and how much of it."""
    limits = f"at most {learn.text_bytes // MIB} MiB of texts, {learn.max_bytes // MIB} MiB of everything"
    why = (
        f"texts of requests to the base model are kept ({limits}: --learn-max-mb) and train the speculator at idle "
        'priority; nothing leaves this machine; requests with "store": false are not kept'
    )
    return Choice("learning", learn.folder, why)


def announce(config: ServerConfig, ready: EngineReady, chat: bool, seconds: float, out: TextIO | None = None) -> None:
    """Prints the report: a table on a terminal, plain lines elsewhere."""
    out = out or sys.stdout
    choices = [*ready.choices, *server_choices(config)]
    if out.isatty():
        _print_table(choices, out)
    else:
        print(plain(choices), file=out)
    print(
        f"\nPaceline serves {config.model_names[0]} at {base_url(config)} (ready in {seconds:.1f} s). Try:\n", file=out
    )
    print(textwrap.indent(curl(config, chat), "  ") + "\n", file=out, flush=True)


def plain(choices: Sequence[Choice]) -> str:
    """One line a choice."""
    names = max(len(choice.name) for choice in choices)
    values = max(len(choice.value) for choice in choices)
    return "\n".join(f"{c.name:<{names}}  {c.value:<{values}}  {c.reason}".rstrip() for c in choices)


def _print_table(choices: Sequence[Choice], out: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title, style in (("setting", "bold"), ("value", "cyan"), ("why", "dim")):
        table.add_column(title, style=style, overflow="fold")
    for choice in choices:
        table.add_row(choice.name, choice.value, choice.reason)
    Console(file=out).print(table)
