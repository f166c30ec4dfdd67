"""``adapter_config.json`` of PEFT: what is supported, the scale of each module, and which modules there must be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.errors import AdapterError

CONFIG_FILE = "adapter_config.json"

#: Options that change what the adapter computes. Each is off when absent, null, false or empty.
_REFUSED = {
    "use_dora": "DoRA (its weights are renormed after the update)",
    "modules_to_save": "modules_to_save (whole retrained modules)",
    "fan_in_fan_out": "fan_in_fan_out (transposed weights)",
    "lora_bias": "lora_bias (a bias on B)",
    "target_parameters": "target_parameters (LoRA on stacked parameters, such as those of MoE experts)",
    "trainable_token_indices": "trainable_token_indices (retrained embeddings)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer_replication",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
#: Read below, or of training and bookkeeping only.
_KNOWN = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "bias", "init_lora_weights", "lora_dropout", "task_type", "revision",
    "base_model_name_or_path", "peft_version", "inference_mode", "auto_mapping", "corda_config", "eva_config",
    "lora_ga_config", "loftq_config", "ensure_weight_tying", "megatron_config", "megatron_core", "qalora_group_size",
    "runtime_config",
}  # fmt: skip
#: Ways to start training that leave the base model's weights as they are.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")

Refuse = Callable[[str], AdapterError]


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """A checked configuration. Modules go by their full name in the model, ``model.layers.0.self_attn.q_proj``."""

    values: Mapping[str, Any]
    refuse: Refuse

    @property
    def base(self) -> str:
        """The model that the adapter was trained on, by its own account."""
        return str(self.values.get("base_model_name_or_path") or "an unnamed model")

    def rank(self, module: str) -> int:
        """The rank of a module's A and B."""
        rank = self._of(module, "rank_pattern", "r", 8)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise self.refuse(f"the rank of {module} is {rank!r}; it must be a whole number of 1 or more")
        return rank

    def scale(self, module: str) -> float:
        """``alpha / rank``, or ``alpha / sqrt(rank)`` with rank-stabilised LoRA (Kalajdzievski 2023)."""
        alpha = self._of(module, "alpha_pattern", "lora_alpha", 8)
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            raise self.refuse(f"lora_alpha of {module} is {alpha!r}; it must be a finite number")
        rank = self.rank(module)
        return float(alpha) / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    def targets(self, module: str, layer: int) -> bool:
        """Whether the configuration names the module, which then must have weights."""
        wanted, excluded = self.values.get("target_modules") or [], self.values.get("exclude_modules") or []
        if not self._named(module, wanted) or self._named(module, excluded):
            return False
        layers, pattern = self.values.get("layers_to_transform"), self.values.get("layers_pattern") or "layers"
        if isinstance(wanted, str) or layers is None or layers == []:
            return True
        names = [pattern] if isinstance(pattern, str) else pattern
        return "layers" in names and layer in ([layers] if isinstance(layers, int) else layers)

    def _named(self, module: str, names: str | Iterable[str]) -> bool:
        """``names``: one regular expression for the whole name, or ends of names."""
        if isinstance(names, str):
            return names == "all-linear" or self._match(names, module)
        return any(module == name or module.endswith(f".{name}") for name in names)

    def _of(self, module: str, pattern_key: str, key: str, default: int) -> Any:
        """The value of the first pattern that matches the end of the module's name, else the common one."""
        for pattern, value in (self.values.get(pattern_key) or {}).items():
            if self._match(rf"(.*\.)?({pattern})", module):
                return value
        return self.values.get(key, default)

    def _match(self, pattern: str, module: str) -> bool:
        try:
            return re.fullmatch(pattern, module) is not None
        except re.error as error:
            raise self.refuse(f"{CONFIG_FILE} has the pattern {pattern!r}, which is none: {error}") from error


def read_config(folder: Path, refuse: Refuse) -> PeftConfig:
    """Reads and checks the configuration; raises what ``refuse`` makes of the reason."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_text())
    except FileNotFoundError:
        raise refuse(f"there is no {CONFIG_FILE}; expected a folder that PEFT's save_pretrained wrote") from None
    except (OSError, ValueError) as error:
        raise refuse(f"{CONFIG_FILE} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise refuse(f"{CONFIG_FILE} is not a JSON object")
    kind = values.get("peft_type")
    if kind != "LORA":
        raise refuse(f"it is a PEFT adapter of type {kind!r}; only 'LORA' is supported")
    for key, what in _REFUSED.items():
        if values.get(key):
            raise refuse(f"{what} is not supported")
    if values.get("bias", "none") not in ("none", None):
        raise refuse(f"bias={values['bias']!r} (retrained biases) is not supported; train with bias='none'")
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise refuse(
            f"init_lora_weights={start!r} changes the base model's weights, so the adapter does not fit the base "
            "itself; save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    unknown = [key for key, value in values.items() if value and key not in _KNOWN and key not in _REFUSED]
    if unknown:
        raise refuse(f"{CONFIG_FILE} has options that are not known here: {', '.join(sorted(unknown))}")
    return PeftConfig(values, refuse)
