"""What a training is asked for, checked; and the sizes that are chosen from the data where nothing was asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from paceline.errors import InvalidRequestError

#: "lora": an adapter. "turbo-lora": an adapter and its speculator. "turbo": a speculator for a model as it is.
Kind = Literal["lora", "turbo-lora", "turbo"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "f32", "bf16"]

BATCH_TOKENS = 1024  # of an optimizer step, padding included
LEAST_STEPS_AN_EPOCH = 30  # small data gets smaller batches instead of fewer steps


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """``rank`` and ``alpha`` of all modules; ``targets``: ends of their names, empty: every linear layer of the
    decoder. ``epochs`` and ``batch_tokens``: None: by the size of the data. ``patience``: evaluations without a lower
    held-out loss before training ends."""

    rank: int = 16
    alpha: float | None = None  # None: twice the rank
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    learning_rate: float = 5e-4
    warm_up_share: float = 0.05  # of all steps
    final_share: float = 0.05  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: int | None = None
    batch_tokens: int | None = None
    evaluations: int = 10  # in the course of the training
    patience: int = 4

    @property
    def scale_alpha(self) -> float:
        return 2.0 * self.rank if self.alpha is None else self.alpha

    def chosen_epochs(self, rows: int) -> int:
        """Passes over ``rows`` rows: about 9000 rows in all, at least 2 passes and at most 6."""
        return self.epochs or min(6, max(2, round(9000 / rows)))

    def chosen_batch(self, tokens: int, longest: int) -> int:
        """Tokens of a batch, for data of ``tokens`` in all."""
        return self.batch_tokens or max(longest, min(BATCH_TOKENS, tokens // LEAST_STEPS_AN_EPOCH))


@dataclass(frozen=True, slots=True)
class SpeculatorSettings:
    """None: by the size of the data. ``texts``: most answers that it learns from. ``vocabulary``: tokens that it can
    propose. ``steps``: of its training. ``start``: the folder of a speculator for this model to start from, "auto" for
    the one that the package brings, "none"."""

    texts: int = 4000
    max_new_tokens: int | None = None
    temperature: float = 0.0
    vocabulary: int | None = None
    positions: int = 6
    steps: int | None = None
    learning_rate: float | None = None
    start: str = "auto"
    max_state_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """``model``: a folder, file, Hub id or alias, "" the default. ``adapter``: the folder of the one that a ``turbo``
    is for. ``max_length``: most tokens of a row, None: the model's context. ``held_out``: share of the rows that are
    only measured with. ``threads``, ``device``, ``backend`` and ``precision`` say how, not what: a training may go on
    with other ones."""

    kind: Kind
    data: Path
    output: Path
    model: str = ""
    adapter: Path | None = None
    max_length: int | None = None
    held_out: float = 0.05
    seed: int = 0
    lora: LoraSettings = field(default_factory=LoraSettings)
    speculator: SpeculatorSettings = field(default_factory=SpeculatorSettings)
    overwrite: bool = False
    device: Device = "auto"
    precision: Precision = "auto"
    backend: str = "auto"
    threads: int | None = None

    @property
    def trains_adapter(self) -> bool:
        return self.kind != "turbo"

    @property
    def trains_speculator(self) -> bool:
        return self.kind != "lora"

    def check(self) -> None:
        """Raises ``InvalidRequestError`` naming the setting, its value and the limit."""
        lora, turbo = self.lora, self.speculator
        rules: list[tuple[str, object, bool, str]] = [
            ("kind", self.kind, self.kind in KINDS, f"one of {', '.join(KINDS)}"),
            ("device", self.device, self.device in get_args(Device), "auto, cpu or cuda"),
            ("precision", self.precision, self.precision in get_args(Precision), "auto, f32 or bf16"),
            ("adapter", self.adapter, self.adapter is None or self.kind == "turbo", "left out: only turbo takes one"),
            ("held_out", self.held_out, 0 < self.held_out <= 0.5, "above 0 and at most 0.5"),
            ("max_length", self.max_length, self.max_length is None or self.max_length >= 8, "at least 8"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
            ("seed", self.seed, 0 <= self.seed < 2**63, "between 0 and 2^63 - 1"),
            ("rank", lora.rank, 1 <= lora.rank <= 512, "between 1 and 512"),
            ("alpha", lora.scale_alpha, 0 < lora.scale_alpha < math.inf, "positive"),
            ("dropout", lora.dropout, 0 <= lora.dropout < 1, "at least 0 and below 1"),
            ("learning_rate", lora.learning_rate, 0 < lora.learning_rate < 1, "above 0 and below 1"),
            ("epochs", lora.epochs, lora.epochs is None or lora.epochs >= 1, "at least 1"),
            ("batch_tokens", lora.batch_tokens, lora.batch_tokens is None or lora.batch_tokens >= 16, "at least 16"),
            ("evaluations", lora.evaluations, lora.evaluations >= 1, "at least 1"),
            ("patience", lora.patience, lora.patience >= 1, "at least 1"),
            ("max_texts", turbo.texts, turbo.texts >= 2, "at least 2"),
            ("temperature", turbo.temperature, 0 <= turbo.temperature <= 2, "between 0 and 2"),
            ("draft_vocabulary", turbo.vocabulary, turbo.vocabulary is None or turbo.vocabulary >= 2, "at least 2"),
            ("positions", turbo.positions, 2 <= turbo.positions <= 16, "between 2 and 16"),
            ("speculator_steps", turbo.steps, turbo.steps is None or turbo.steps >= 1, "at least 1"),
            (
                "max_new_tokens",
                turbo.max_new_tokens,
                turbo.max_new_tokens is None or turbo.max_new_tokens >= 1,
                "at least 1",
            ),
        ]
        for name, value, good, rule in rules:
            if not good:
                raise InvalidRequestError(f"{name} must be {rule}, got {value!r}", param=name)
