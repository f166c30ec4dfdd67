"""Where the training of a speculator starts: from another one for the same model, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.models.spec import ModelSpec
from paceline.speculation.drafters.turbo_format import FORMATS, SpeculatorConfig, TargetMark, read_speculator
from paceline.speculation.drafters.turbo_shipped import shipped_speculator
from paceline.training.architecture import TargetTables
from paceline.training.speculator import new_tensors
from paceline.training.vocabulary import draft_indices

AUTO, NONE = "auto", "none"

#: Rows of these are draft tokens.
_BY_TOKEN = ("head", "markov_previous", "markov_next")


@dataclass(frozen=True, slots=True)
class Parent:
    """A speculator to start from. It has learned to read the model's hidden states and to attend to the right places;
    what an adapter changes of that takes a fraction of the steps (docs/decisions/0014)."""

    name: str
    config: SpeculatorConfig
    tensors: Mapping[str, Tensor]

    def config_for(self, vocab_size: int, positions: int, window: int) -> SpeculatorConfig:
        """Of a speculator of this shape that proposes other tokens."""
        made = msgspec.structs.replace(
            self.config,
            vocab_size=vocab_size,
            positions=positions,
            window=window,
            stored="bf16",
            format=FORMATS["bf16"],
            target_norm=(),
            card={},
        )
        made.check()
        return made

    def tensors_for(
        self, config: SpeculatorConfig, tokens: Tensor, state_scale: Tensor, tables: TargetTables, seed: int
    ) -> dict[str, Tensor]:
        """First weights of a speculator of ``config`` for the draft ``tokens``: what fits is the parent's, rows of
        tokens that it cannot propose and positions beyond its own are new, or its last one's."""
        found = new_tensors(config, tokens, state_scale, tables, seed)
        indices = draft_indices(self.tensors["tokens"], config.target.vocab_size)[tokens.long()]
        known = indices >= 0
        for name, tensor in found.items():
            own = self.tensors[name]
            if name == "masks":
                found[name] = own[[min(i, len(own) - 1) for i in range(len(tensor))]]
            elif name in _BY_TOKEN:
                tensor[known] = own[indices[known]]
            elif name != "tokens":
                found[name] = own.clone()
        return found


def find_parent(wish: str, spec: ModelSpec, path: Path) -> Parent | None:
    """``wish``: "auto" (the one that the package brings for this model), "none", or a speculator's folder. Raises
    ``InvalidRequestError`` for a folder that has none, or one for another model."""
    if wish == NONE:
        return None
    folder = shipped_speculator(spec, path) if wish == AUTO else Path(wish)
    if folder is None:
        return None
    try:
        config, tensors = read_speculator(folder)
    except ModelLoadError as error:
        raise InvalidRequestError(f"cannot start from {folder}: {error}", param="speculator_start") from error
    if config.target.shape_hash != TargetMark.of(spec, "").shape_hash:
        raise InvalidRequestError(
            f"cannot start from {folder}: it is a speculator for {config.target.name}, a model of another shape",
            param="speculator_start",
        )
    return Parent(folder.name, config, tensors)
