"""What learning is asked for, and how a folder is divided. Needs no torch: the server reads it, and so does the
trainer's process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from paceline.errors import InvalidRequestError

LEAST_BYTES = 16 << 20
TEXTS, STATES = "texts", "work"  # folders below the learning folder
VERSIONS = "versions"


class LearnOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``folder``: everything that is kept lies below it. ``max_bytes``: of texts, versions and hidden states together;
    what a training needs to be resumed comes on top (16 bytes for each weight of the speculator). The rest says when
    the trainer works: a training begins with ``train_tokens`` new output tokens in ``train_texts`` texts or more, and
    is judged by ``judge_texts`` held-out texts that came when it was over."""

    folder: str
    max_bytes: int = 2 << 30
    train_texts: int = 64
    train_tokens: int = 20_000
    judge_texts: int = 32
    steps: int | None = None  # of a training; None: by the number of tokens
    pause_s: float = 10.0  # between two looks for new texts

    def check(self) -> None:
        """Raises ``InvalidRequestError`` naming the setting, its value and the limit."""
        if self.max_bytes < LEAST_BYTES:
            raise InvalidRequestError(
                f"learning needs at least {LEAST_BYTES >> 20} MiB, got {self.max_bytes / 2**20:g} (--learn-max-mb)"
            )
        for name in ("train_texts", "train_tokens", "judge_texts"):
            if getattr(self, name) < 2:
                raise InvalidRequestError(f"{name} must be at least 2, got {getattr(self, name)}", param=name)

    @property
    def root(self) -> Path:
        return Path(self.folder)

    @property
    def text_bytes(self) -> int:
        """Limit of the recorded texts."""
        return self.max_bytes // 8

    @property
    def state_bytes(self) -> int:
        """Limit of the hidden states of one training, and of its judgement."""
        return self.max_bytes // 4

    @property
    def version_bytes(self) -> int:
        """Limit of the versions; the one in use and the one before it are kept in any case."""
        return self.max_bytes * 3 // 8


class TrainerConfig(msgspec.Struct, kw_only=True):
    """What the server tells the trainer's process. ``model``: its local files, ``backend`` by name. ``speculator``:
    the folder of the one that the server started with, version 0; None: it started without."""

    options: LearnOptions
    model: str
    name: str
    backend: str
    context_length: int
    speculator: str | None
    parent_pid: int


class TrainerReport(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line from the trainer. ``state``: what it does, for people. ``version``: one that it has just made."""

    state: str
    version: int | None = None
