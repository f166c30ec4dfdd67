"""Trains a speculator on collected states. The same on CPU and GPU, and the same bits when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from paceline.errors import InvalidRequestError
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, write_speculator
from paceline.training.batches import draw_batch
from paceline.training.losses import block_loss
from paceline.training.speculator import Speculator
from paceline.training.states import StateSet
from paceline.training.vocabulary import draft_indices

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class FitConfig:
    """``steps`` of ``texts`` texts with ``anchors`` anchors each. ``held_out``: share of the texts that are never
    trained on. ``patience``: evaluations without a better held-out acceptance before it ends."""

    steps: int = 1000
    texts: int = 4
    anchors: int = 32
    learning_rate: float = 3e-3
    warm_up: int = 50
    decay: float = 1.0  # share of the steps in which the learning rate falls, at the end; before it is constant
    final_share: float = 0.05  # of the learning rate, at the end of the fall
    weight_decay: float = 0.01
    clip: float = 1.0
    gamma: float = 4.0
    least_kl: float = 0.5  # see ``block_loss``
    held_out: float = 0.05
    evaluate_every: int = 100
    evaluate_blocks: int = 2048
    patience: int = 10
    seed: int = 0
    bf16: bool = False  # matrix products in bfloat16
    muon: bool = False  # matrices between embedding and head by Muon, the rest by AdamW

    def check(self) -> None:
        """Raises ``InvalidRequestError`` naming the setting, its value and the limit."""
        for name in ("steps", "texts", "anchors", "evaluate_every", "evaluate_blocks", "patience"):
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"{name} must be at least 1, got {getattr(self, name)}", param=name)
        for name in ("learning_rate", "gamma", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidRequestError(f"{name} must be positive, got {getattr(self, name)}", param=name)
        if not 0 < self.decay <= 1:
            raise InvalidRequestError(f"decay must be above 0 and at most 1, got {self.decay}", param="decay")
        if not 0 < self.held_out < 1:
            raise InvalidRequestError(f"held_out must be between 0 and 1, got {self.held_out}", param="held_out")


@dataclass(slots=True)
class Progress:
    """After each step; what was evaluated is None in between. ``accepted``: mean number of leading right tokens of
    held-out blocks; ``hits``: by position, the share of right tokens."""

    step: int
    steps: int
    loss: float
    accepted: float | None = None
    hits: list[float] | None = None


@dataclass(slots=True)
class FitState:
    """Everything that the next step depends on."""

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    stale: int = 0  # evaluations since the best one
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fitted:
    """``model`` has the weights with the best held-out acceptance."""

    model: Speculator
    accepted: float
    step: int
    history: list[dict[str, Any]]

    def save(self, folder: Path, config: FitConfig, card: Mapping[str, Any]) -> None:
        """Writes the folder that ``SpeculationOptions.speculator`` names; ``card``: what else is to be told."""
        told = {**card, "fit": asdict(config), "steps": self.step, "held_out_accepted": round(self.accepted, 4)}
        write_speculator(folder, msgspec.structs.replace(self.model.config, card=told), self.model.tensors())


def split(states: StateSet, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts to train on and texts to judge by, at least one of each. Raises ``InvalidRequestError`` for one text."""
    if len(states) < 2:
        raise InvalidRequestError(f"training needs two texts or more, one of them to judge by; there are {len(states)}")
    order = np.random.default_rng([seed, 1]).permutation(len(states))
    count = min(max(1, round(held_out * len(states))), len(states) - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def fit(
    states: StateSet,
    config: SpeculatorConfig,
    tensors: Mapping[str, Tensor],
    embedding: Tensor,
    settings: FitConfig,
    *,
    folder: Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    held: StateSet | None = None,
) -> Fitted:
    """Trains from ``tensors`` (see ``new_tensors``, or a speculator to go on from) with the target's ``embedding``.

    ``folder``: keeps a checkpoint there at each evaluation; a checkpoint of the same settings is resumed, and leads
    to the weights that an uninterrupted run would have had. ``stop``: asked before each step; it ends with a
    checkpoint. ``held``: texts to judge by, instead of a share of ``states``: then a run may go on with more texts.
    """
    settings.check()
    for files in [states.files] + ([] if held is None else [held.files]):
        if files.layers != config.layers:
            raise InvalidRequestError(
                f"the states are of layers {list(files.layers)}, the speculator reads {list(config.layers)}"
            )
    model = Speculator(config, tensors, embedding).to(device)
    return _Fitting(states, model, settings, folder, held).run(progress, stop)


class _Fitting:
    def __init__(
        self,
        states: StateSet,
        model: Speculator,
        settings: FitConfig,
        folder: Path | None,
        held: StateSet | None = None,
    ) -> None:
        self.states, self.model, self.settings = states, model, settings
        self.file = None if folder is None else folder / CHECKPOINT
        self.device = model.tokens.device
        if held is None:
            self.train, self.held = split(states, settings.held_out, settings.seed)
        else:
            self.train, self.held = np.arange(len(states)), np.arange(len(held))
        self.judged = states if held is None else held
        self.chances = _shares(states, self.train)
        self.held_chances = _shares(self.judged, self.held)
        self.indices = draft_indices(model.tokens.cpu(), model.config.target.vocab_size)
        self.optimizers = optimizers(model, settings)
        self.state = FitState()
        self.best = self._weights()

    def run(self, progress: Callable[[Progress], None] | None, stop: Callable[[], bool] | None) -> Fitted:
        settings, state = self.settings, self.state
        if self.file is not None and self.file.is_file():
            self._load()
        while state.step < settings.steps and state.stale < settings.patience:
            if stop is not None and stop():
                break
            report = Progress(state.step + 1, settings.steps, self._step())
            state.step += 1
            if state.step % settings.evaluate_every == 0 or state.step == settings.steps:
                report.accepted, report.hits = self.evaluate()
                self._judge(report)
                self._save()
            if progress is not None:
                progress(report)
        if stop is not None:
            self._save()
        self.model.load_state_dict(self.best)
        return Fitted(self.model, state.best, state.best_step, state.history)

    def _step(self) -> float:
        settings, step = self.settings, self.state.step
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate(step, settings)
        # What is drawn depends on the step alone, so a resumed run draws the same.
        generator = np.random.default_rng([settings.seed, 2, step])
        chosen = generator.choice(self.train, size=settings.texts, p=self.chances)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            loss = block_loss(
                self.model,
                self._batch(self.states, chosen, generator, settings.anchors),
                settings.gamma,
                settings.least_kl,
            ).total
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())

    def _batch(
        self, states: StateSet, chosen: np.ndarray, generator: np.random.Generator, anchors: int, **options: Any
    ) -> Any:
        config = self.model.config
        return draw_batch(
            states, chosen, generator, self.indices,
            anchors=anchors, positions=config.positions, window=config.window, **options,
        ).to(self.device)  # fmt: skip

    @torch.no_grad()
    def evaluate(self) -> tuple[float, list[float]]:
        """Mean leading right tokens and right tokens by position, of the same held-out blocks every time."""
        generator = np.random.default_rng([self.settings.seed, 3])
        self.model.eval()
        hits = torch.zeros(self.model.config.positions, dtype=torch.float64)
        counts = torch.zeros_like(hits)
        accepted = blocks = 0.0
        while blocks < self.settings.evaluate_blocks:
            chosen = generator.choice(self.held, size=2, p=self.held_chances)
            batch = self._batch(self.judged, chosen, generator, 64, late_start=0.0)
            loss = block_loss(self.model, batch, self.settings.gamma)
            hits += (loss.hits * loss.counts).cpu().double()
            counts += loss.counts.cpu().double()
            accepted += float(loss.accepted * loss.counts[0])
            blocks += float(loss.counts[0])
        return accepted / blocks, (hits / counts.clamp(min=1)).tolist()

    def _judge(self, report: Progress) -> None:
        state = self.state
        assert report.accepted is not None
        state.history.append({"step": report.step, "accepted": report.accepted, "hits": report.hits})
        if report.accepted > state.best:
            state.best, state.best_step, state.stale = report.accepted, report.step, 0
            self.best = self._weights()
        else:
            state.stale += 1

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _save(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f"{CHECKPOINT}.partial")
        content = {
            "settings": asdict(self.settings),
            "state": asdict(self.state),
            "model": self._weights(),
            "best": self.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(content, partial)
        partial.replace(self.file)

    def _load(self) -> None:
        assert self.file is not None
        content = torch.load(self.file, map_location=self.device, weights_only=True)
        wrong = [key for key, value in asdict(self.settings).items() if content["settings"].get(key) != value]
        # The number of steps is nothing to a run whose learning rate has not begun to fall, before or after the change.
        fall = [
            fall_step(replace(self.settings, steps=steps))
            for steps in (self.settings.steps, content["settings"]["steps"])
        ]
        if wrong and (wrong != ["steps"] or content["state"]["step"] > min(fall)):
            raise InvalidRequestError(
                f"{self.file} is of a run with other settings ({', '.join(wrong)}): use them, or another folder"
            )
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.best = content["best"]
        for name, value in content["state"].items():
            setattr(self.state, name, value)


def _shares(states: StateSet, texts: np.ndarray) -> np.ndarray:
    """How likely each of ``texts`` is to be drawn: by the number of its output tokens."""
    counts = states.output_counts()[texts].astype(np.float64)
    shares: np.ndarray = counts / counts.sum()
    return shares


#: What Muon is for: matrices whose rows and columns are both directions of a hidden space.
_HIDDEN = ("from_embedding", "from_states", "qkv", "output", "gate", "up", "down")


def optimizers(model: Speculator, settings: FitConfig) -> list[torch.optim.Optimizer]:
    """AdamW; with ``settings.muon``, Muon (orthogonalised momentum, steps scaled to the size of AdamW's, as in
    arXiv:2502.16982) for matrices of the layer."""
    by_muon = [parameter for name, parameter in model.named_parameters() if settings.muon and name in _HIDDEN]
    others = [parameter for name, parameter in model.named_parameters() if not (settings.muon and name in _HIDDEN)]
    decayed = [p for p in others if p.dim() > 1]
    plain = [p for p in others if p.dim() <= 1]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            foreach=None,
            fused=True,
        )
    ]
    if by_muon:
        made.append(
            torch.optim.Muon(by_muon, settings.learning_rate, settings.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return made


def fall_step(settings: FitConfig) -> int:
    """The step at which the learning rate begins to fall."""
    return max(settings.warm_up, round((1 - settings.decay) * settings.steps))


def rate(step: int, settings: FitConfig) -> float:
    """Share of the learning rate: a linear warm-up, a constant part, then half a cosine down to ``final_share``."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    start = fall_step(settings)
    done = max(0, step - start) / max(1, settings.steps - start)
    return settings.final_share + (1 - settings.final_share) * 0.5 * (1 + math.cos(math.pi * done))
