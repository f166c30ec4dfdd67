"""Everything about the HTTP side that a user can choose; resolved once, by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paceline.learning.settings import LearnOptions

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Limits and switches of the HTTP server."""

    model_names: tuple[str, ...]  # the first one is the name in answers; the others are accepted too
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()  # none: open to everybody who reaches the port
    max_body_bytes: int = 8 * MIB
    body_timeout_s: float = 60.0  # a client that sends its body more slowly is cut off
    cors_origins: tuple[str, ...] = ()  # none: browsers on other origins are refused
    drain_timeout_s: float = 30.0  # how long open requests may go on after SIGTERM
    access_log: bool = False
    adapter_dir: Path | None = None  # clients may load adapters from folders below it; None: from nowhere
    learn: LearnOptions | None = None  # keep texts and train the speculator with them; None: nothing is kept
