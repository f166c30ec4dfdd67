"""Random adapters for tiny models, written as PEFT writes them, and the merged model that each stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED_TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

Tensors = dict[str, torch.Tensor]


def targeted(model: PreTrainedModel, targets: Sequence[str]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Names and modules of the decoder's linear layers in ``targets``."""
    for name, module in model.named_modules():
        parts = name.split(".")
        if parts[-1] in targets and "layers" in parts and "experts" not in parts and "vision" not in name:
            yield name, module


def random_tensors(
    model: PreTrainedModel, rank: int, *, targets: Sequence[str] = (), ranks: Mapping[str, int] | None = None, seed: int
) -> Tensors:
    """A and B of every targeted module under PEFT's names, large enough to change every logit. ``ranks``: of single
    modules, by the end of their name."""
    targets = targets or (FUSED_TARGETS if model.config.model_type == "phi3" else TARGETS)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in targeted(model, targets):
        own = next((r for end, r in (ranks or {}).items() if name.endswith(end)), rank)
        out, columns = module.weight.shape
        for letter, shape in (("A", (own, columns)), ("B", (out, own))):
            values = torch.randn(shape, generator=generator) / shape[1] ** 0.5
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = values
    return tensors


def write_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A folder as PEFT's ``save_pretrained`` makes it; ``config`` replaces its defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({name.split(".")[-3] for name in tensors if ".lora_" in name})
    values = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "bias": "none", "r": 8,
        "lora_alpha": 16, "lora_dropout": 0.05, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "use_rslora": False, "use_dora": False, "modules_to_save": None,
        "target_modules": modules, "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None,
        "layers_pattern": None, "peft_version": "0.21.2", **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


@torch.no_grad()
def merge(model: PreTrainedModel, tensors: Tensors, scale: float | Mapping[str, float]) -> PreTrainedModel:
    """Adds ``scale * B A`` to the model's weights, in place; scales may differ by the end of a module's name."""
    modules = dict(model.named_modules())
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        factor = scale if isinstance(scale, float) else next(s for end, s in scale.items() if path.endswith(end))
        modules[path].weight += factor * tensors[name.replace(".lora_A.", ".lora_B.")] @ a
    return model
