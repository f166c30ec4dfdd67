"""Trains a LoRA adapter: the base model frozen, logits only where there is a loss, rows of one length together.

The same on CPU and GPU, and the same bits when it is resumed on the same kind of machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.errors import InvalidRequestError
from paceline.training.data import Example
from paceline.training.lora_model import BaseModel
from paceline.training.settings import LoraSettings

CHECKPOINT = "checkpoint.pt"
WINDOW = 16  # batches' worth of rows that are sorted by length together
HEAD_ROWS = 512  # whose logits are in memory at a time
SAVE_SECONDS = 60.0


@dataclass(slots=True)
class LoraProgress:
    """After each step. ``loss``: of the step, per token of the answers; ``held_out``: of the held-out answers, where it
    was evaluated."""

    step: int
    steps: int
    loss: float
    held_out: float | None = None


@dataclass(slots=True)
class _State:
    """Everything that the next step depends on, beside the weights."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    stale: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LoraFitted:
    """``model``: the PEFT model with the weights of the lowest held-out loss."""

    model: Any
    loss: float
    step: int
    history: list[dict[str, Any]]


def plan_epoch(lengths: Sequence[int], batch_tokens: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices of each batch: all rows once, in random order, each batch at most ``batch_tokens`` with its padding (or
    one row). Rows of a window are sorted by length, so that little is padding."""
    order = generator.permutation(len(lengths))
    mean = max(1.0, sum(lengths) / len(lengths))
    window = max(1, int(WINDOW * batch_tokens / mean))
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        batch: list[int] = []
        for index in sorted(order[start : start + window].tolist(), key=lambda row: lengths[row]):
            if batch and lengths[index] * (len(batch) + 1) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    return [batches[int(i)] for i in generator.permutation(len(batches))]


def plan(lengths: Sequence[int], settings: LoraSettings, seed: int) -> list[list[int]]:
    """The batches of all epochs: the same for the same data, settings and seed."""
    size = settings.chosen_batch(sum(lengths), max(lengths))
    epochs = settings.chosen_epochs(len(lengths))
    return [batch for i in range(epochs) for batch in plan_epoch(lengths, size, np.random.default_rng([seed, 5, i]))]


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """``B`` rows of at most ``T`` tokens, padded behind: causal attention never sees that. Place ``i`` of a row
    predicts token ``i + 1``; ``places`` are those (row * T + i) that predict a token of an answer."""

    token_ids: Tensor  # int64 [B, T]
    places: Tensor  # int64 [N]
    targets: Tensor  # int64 [N]


def answer_batch(examples: Sequence[Example], device: torch.device) -> AnswerBatch:
    """The rows as one batch; each must have an answer."""
    longest = max(example.length for example in examples)
    token_ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    places, targets = [], []
    for row, example in enumerate(examples):
        assert example.answer_ids is not None
        ids = torch.tensor(example.prompt_ids + example.answer_ids)
        token_ids[row, : len(ids)] = ids
        first = len(example.prompt_ids) - 1
        places.append(torch.arange(first, len(ids) - 1) + row * longest)
        targets.append(ids[first + 1 :])
    return AnswerBatch(token_ids.to(device), torch.cat(places).to(device), torch.cat(targets).to(device))


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are in bfloat16: as asked, or where the device multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


class LoraTraining:
    """One training of ``model`` (see ``with_lora``) on ``train``, judged by ``held``. ``folder`` keeps a checkpoint
    about once a minute and at each evaluation; one of the same settings is resumed."""

    def __init__(
        self,
        base: BaseModel,
        model: Any,
        train: Sequence[Example],
        held: Sequence[Example],
        settings: LoraSettings,
        *,
        seed: int,
        bf16: bool,
        folder: Path,
    ) -> None:
        self.base, self.model, self.settings, self.seed, self.bf16 = base, model, settings, seed, bf16
        self.train, self.held = train, held
        self.file = folder / CHECKPOINT
        self.device = next(base.model.parameters()).device
        self.batches = plan([example.length for example in train], settings, seed)
        self.every = max(1, math.ceil(len(self.batches) / settings.evaluations))
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=settings.weight_decay,
        )
        self.state = _State()
        self.best = self._weights()
        self._saved = time.monotonic()

    def run(self, progress: Callable[[LoraProgress], None] | None = None) -> LoraFitted:
        """Trains to the end. An exception from ``progress`` ends it; the last checkpoint stays."""
        state, steps = self.state, len(self.batches)
        if self.file.is_file():
            self._load()
        if not state.history:
            self._judge(0)
        while state.step < steps and state.stale < self.settings.patience:
            report = LoraProgress(state.step + 1, steps, self._step())
            state.step += 1
            if state.step % self.every == 0 or state.step == steps:
                report.held_out = self._judge(state.step)
                self._save()
            elif time.monotonic() - self._saved > SAVE_SECONDS:
                self._save()
            if progress is not None:
                progress(report)
        with torch.no_grad():
            for name, tensor in self.best.items():
                self.parameters[name].copy_(tensor)
        return LoraFitted(self.model, state.best, state.best_step, state.history)

    def _step(self) -> float:
        """One step of the optimizer; gives the mean loss of its answers' tokens."""
        settings, step = self.settings, self.state.step
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, len(self.batches), settings)
        batch = answer_batch([self.train[row] for row in self.batches[step]], self.device)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed((self.seed * 1_000_003 + step) % 2**63)  # of dropout: the same when it is resumed
            hidden = self._hidden(batch)
            loss, gradient = self._head(hidden.detach(), batch.targets, train=True)
            assert gradient is not None
            hidden.backward(gradient)
        if not math.isfinite(loss):
            raise InvalidRequestError(
                f"the loss of step {step + 1} is {loss}: train with a lower learning rate than {settings.learning_rate}"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip)
        self.optimizer.step()
        return loss

    def _hidden(self, batch: AnswerBatch) -> Tensor:
        """Last hidden states ``[N, hidden]`` of the places that predict."""
        with self._precision():
            rows = self.base.model.model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
        chosen: Tensor = rows.flatten(0, 1)[batch.places]
        return chosen

    def _head(self, hidden: Tensor, targets: Tensor, train: bool) -> tuple[float, Tensor | None]:
        """The mean loss and its gradient to ``hidden``, ``HEAD_ROWS`` rows at a time: logits of a large vocabulary
        would be most of the memory."""
        gradient = torch.empty_like(hidden) if train else None
        total = 0.0
        for start in range(0, len(hidden), HEAD_ROWS):
            part = hidden[start : start + HEAD_ROWS].requires_grad_(train)
            with self._precision():
                logits = self.base.logits(part)
            loss = F.cross_entropy(logits.float(), targets[start : start + HEAD_ROWS], reduction="sum") / len(hidden)
            if gradient is not None:
                (gradient[start : start + HEAD_ROWS],) = torch.autograd.grad(loss, part)
            total += float(loss.detach())
        return total, gradient

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss of the held-out answers' tokens."""
        self.model.eval()
        lengths = [example.length for example in self.held]
        size = self.settings.chosen_batch(sum(example.length for example in self.train), max(lengths))
        total, tokens = 0.0, 0
        for rows in plan_epoch(lengths, max(size, max(lengths)), np.random.default_rng(0)):
            batch = answer_batch([self.held[row] for row in rows], self.device)
            loss, _ = self._head(self._hidden(batch), batch.targets, train=False)
            total, tokens = total + loss * len(batch.targets), tokens + len(batch.targets)
        return total / tokens

    def _judge(self, step: int) -> float:
        state, loss = self.state, float(self.evaluate())
        state.history.append({"step": step, "held_out_loss": loss})
        if loss < state.best:
            state.best, state.best_step, state.stale = loss, step, 0
            self.best = self._weights()
        else:
            state.stale += 1
        return loss

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f"{CHECKPOINT}.partial")
        content = {
            "settings": asdict(self.settings) | {"seed": self.seed, "bf16": self.bf16, "steps": len(self.batches)},
            "state": asdict(self.state),
            "weights": self._weights(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(content, partial)
        partial.replace(self.file)
        self._saved = time.monotonic()

    def _load(self) -> None:
        content = torch.load(self.file, map_location=self.device, weights_only=True)
        mine = asdict(self.settings) | {"seed": self.seed, "bf16": self.bf16, "steps": len(self.batches)}
        wrong = [key for key, value in mine.items() if content["settings"].get(key) != value]
        if wrong:
            raise InvalidRequestError(
                f"{self.file} is of a training with other settings ({', '.join(wrong)}): use them, or another folder"
            )
        with torch.no_grad():
            for name, tensor in content["weights"].items():
                self.parameters[name].copy_(tensor)
        self.best = content["best"]
        self.optimizer.load_state_dict(content["optimizer"])
        for name, value in content["state"].items():
            setattr(self.state, name, value)


def rate(step: int, steps: int, settings: LoraSettings) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine down to ``final_share``."""
    warm_up = max(1, round(settings.warm_up_share * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * done))


def save_adapter(model: Any, folder: Path) -> None:
    """Writes PEFT's two files."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's own card is a form to fill in
