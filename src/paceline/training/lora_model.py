"""The base model as a transformers model, from Paceline's own checkpoints: quantized weights as what they stand for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from paceline.errors import ModelLoadError, PacelineError
from paceline.models.checkpoint import Checkpoint, open_checkpoint
from paceline.models.families import model_spec
from paceline.models.spec import ModelSpec
from paceline.training.settings import LoraSettings

#: Where checkpoints put what transformers calls ``model.`` (see ``models/loading.py``).
_PREFIXES = ("model.", "model.language_model.", "language_model.model.", "")
#: Linear layers that adapters can update (see ``adapters/peft.py``), by the last part of their name.
_TARGETS = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj",
)  # fmt: skip


def require_peft() -> None:
    """Raises ``PacelineError`` that says what to install where PEFT is missing."""
    missing = [name for name in ("peft", "accelerate") if find_spec(name) is None]
    if missing:
        raise PacelineError(
            f"training an adapter needs {' and '.join(missing)}, which Paceline does not install by itself: "
            "pip install 'paceline[train]'"
        )


@dataclass(frozen=True, slots=True)
class BaseModel:
    """``model``: the decoder with its head, float32, frozen. ``spec``: what its head does to logits."""

    model: Any
    spec: ModelSpec

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 ``[..., vocabulary]`` of last hidden states ``[..., hidden]``, as ``models/decoder.py`` has them."""
        logits: torch.Tensor = self.model.lm_head(hidden).float() * self.spec.logit_scale
        cap = self.spec.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits


def load_base(path: Path, device: torch.device) -> BaseModel:
    """Loads the checkpoint at ``path`` (a folder or a ``.gguf`` file). Raises ``ModelLoadError`` for a model that
    cannot be trained, and for tensors that are missing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = open_checkpoint(path)
    try:
        spec = model_spec(checkpoint.config)
        if any(layer.moe is not None for layer in spec.layers):
            raise ModelLoadError(f"{path} is a mixture of experts; adapters of such models cannot be trained yet")
        values = dict(checkpoint.config.get("text_config") or checkpoint.config)
        config = AutoConfig.for_model(values.pop("model_type", spec.family), **values)
        # Other kernels of transformers leave the soft cap of attention scores out.
        attention = "eager" if spec.attention_softcap else "sdpa"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
        _fill(model, checkpoint, path)
    finally:
        checkpoint.close()
    model.requires_grad_(False)
    return BaseModel(model.to(device).eval(), spec)


@torch.no_grad()
def _fill(model: Any, checkpoint: Checkpoint, path: Path) -> None:
    """Every parameter from the checkpoint, one tensor at a time."""
    anchor = "layers.0.input_layernorm.weight"
    names = {name for name, _ in model.named_parameters()}
    if f"model.{anchor}" not in names:  # families whose norms stand elsewhere
        anchor = next(name for name in names if name.startswith("model.layers.0.")).removeprefix("model.")
    prefix = next((prefix for prefix in _PREFIXES if prefix + anchor in checkpoint), None)
    if prefix is None:
        raise ModelLoadError(f"{path} has no tensor {anchor!r} under any known name")
    for name, parameter in model.named_parameters():
        inner = name.startswith("model.")
        candidates = [prefix + name.removeprefix("model.")] if inner else [name, f"language_model.{name}"]
        found = next((candidate for candidate in candidates if candidate in checkpoint), None)
        if found is None:
            raise ModelLoadError(f"{path} has no tensor {candidates[0]!r}, which a {model.config.model_type} model has")
        tensor = checkpoint.get_tensor(found)
        if tensor.shape != parameter.shape:
            raise ModelLoadError(
                f"{path}: tensor {found!r} has shape {list(tensor.shape)}, expected {list(parameter.shape)}"
            )
        parameter.copy_(tensor)


def with_lora(base: BaseModel, settings: LoraSettings, name: str, seed: int) -> Any:
    """The PEFT model of ``base`` (which is changed) with an adapter that does nothing yet. ``name``: the base model's,
    for the adapter's configuration. Raises ``ModelLoadError`` for targets that the model does not have."""
    from peft import LoraConfig, get_peft_model

    linear = {
        key.rpartition(".")[2]
        for key, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in key
    }
    possible = [target for target in _TARGETS if target in linear]
    unknown = [target for target in settings.targets if target not in possible]
    if unknown:
        raise ModelLoadError(
            f"{name} has no linear layers {', '.join(unknown)} that an adapter could update; it has "
            f"{', '.join(possible)}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.scale_alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets or possible),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=name,
    )
    base.model.name_or_path = name  # PEFT would write down what the checkpoint says
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # between PEFT and transformers, nothing that a user could act on
        torch.manual_seed(seed)
        return get_peft_model(base.model, config)
