"""Reads LoRA adapters as PEFT saves them: ``adapter_config.json`` beside ``adapter_model.safetensors``.

Everything is checked before anything is returned: an adapter is either what its files say, in all its weights, or
refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from paceline.adapters.peft_config import PeftConfig, Refuse, read_config
from paceline.adapters.weights import AdapterWeights, LoraPart, Site
from paceline.errors import AdapterError

WEIGHTS_FILE = "adapter_model.safetensors"

#: Hugging Face's names of linear modules, and the sites that each covers: fused ones several, one behind the other.
_MODULES = {
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.qkv_proj": ("q", "k", "v"),
    "self_attn.o_proj": ("o",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.gate_up_proj": ("gate", "up"),
    "mlp.down_proj": ("down",),
}
#: A matrix of a decoder layer. What stands before ``layers`` differs between causal models and multimodal wrappers.
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:model\.|language_model\.)*layers\.(?P<layer>\d+)\.(?P<kind>\w+\.\w+))"
    r"\.lora_(?P<letter>[AB])\.weight"
)
#: Why a tensor of another name is refused: the first pattern found in it.
_UNSUPPORTED = (
    (r"lora_embedding_|embed_tokens", "LoRA on the embedding (embed_tokens), or a retrained one, is not supported"),
    (r"lm_head", "LoRA on the output head (lm_head), or a retrained one, is not supported"),
    (r"lora_magnitude_vector", "DoRA is not supported"),
    (r"experts|block_sparse_moe", "LoRA on the experts of a mixture is not supported"),
    (r"mlp\.gate\.", "LoRA on the router of a mixture is not supported"),
    (r"vision|multi_modal", "LoRA on the vision part is not supported: only text is served"),
    (r"lora_[AB]\.bias", "a bias on B (lora_bias) is not supported"),
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(slots=True)
class _Module:
    """One module's pair of matrices as they are found."""

    name: str
    layer: int
    kind: str
    pair: dict[str, torch.Tensor] = field(default_factory=dict)  # by "A" and "B"

    @property
    def sites(self) -> list[Site]:
        return [(self.layer, part) for part in _MODULES[self.kind]]


def read_adapter(folder: Path, shapes: Mapping[Site, tuple[int, int]], base: str) -> AdapterWeights:
    """The adapter in ``folder``, for a model whose weights have ``shapes`` ``(out, in)`` and which is called ``base``.

    Raises ``AdapterError`` that says what is wrong: files that are missing or damaged, a kind of adapter or of module
    that is not supported, matrices that are missing, unknown, of the wrong shape or not finite.
    """
    folder = Path(folder)

    def refuse(reason: str) -> AdapterError:
        return AdapterError(f"adapter {folder}: {reason}")

    if not folder.is_dir():
        raise refuse("there is no such folder")
    config = read_config(folder, refuse)
    modules = _read_modules(_weights_file(folder, refuse), refuse)
    parts: dict[Site, LoraPart] = {}
    for module in modules.values():
        _check_sites(module, parts, shapes, f"it was trained on {config.base}, this is {base}", refuse)
        parts.update(_parts(module, shapes, config, refuse))
    _check_complete(modules, parts, shapes, config, refuse)
    return AdapterWeights(parts)


def _weights_file(folder: Path, refuse: Refuse) -> Path:
    path = folder / WEIGHTS_FILE
    if path.is_file():
        return path
    if (folder / "adapter_model.bin").is_file():
        raise refuse(
            "its weights are pickled (adapter_model.bin), which can run code when it is read; convert them: load the "
            f"adapter with PEFT and save it again, which writes {WEIGHTS_FILE}"
        )
    raise refuse(f"there is no {WEIGHTS_FILE}")


def _read_modules(path: Path, refuse: Refuse) -> dict[str, _Module]:
    modules: dict[str, _Module] = {}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                match = _NAME.fullmatch(name)
                if match is None or match["kind"] not in _MODULES:
                    raise refuse(_why_unsupported(name))
                module = modules.setdefault(
                    match["module"], _Module(match["module"], int(match["layer"]), match["kind"])
                )
                if match["letter"] in module.pair:
                    raise refuse(f"{module.name} has its {match['letter']} twice")
                module.pair[match["letter"]] = _matrix(name, file.get_tensor(name), refuse)
    except (SafetensorError, OSError) as error:
        raise refuse(f"{path.name} cannot be read: {error}; the file is truncated or damaged") from error
    if not modules:
        raise refuse(f"{path.name} has no tensors")
    return modules


def _why_unsupported(name: str) -> str:
    for pattern, reason in _UNSUPPORTED:
        if re.search(pattern, name):
            return f"{reason} (tensor {name!r})"
    return f"tensor {name!r} is not known; adapters may update {', '.join(_MODULES)} of the decoder's layers"


def _matrix(name: str, tensor: torch.Tensor, refuse: Refuse) -> torch.Tensor:
    if tensor.dtype not in _DTYPES:
        raise refuse(f"{name} is stored as {tensor.dtype}; supported types: {', '.join(map(str, _DTYPES))}")
    if tensor.dim() != 2:
        raise refuse(f"{name} has shape {list(tensor.shape)} where a matrix is needed")
    if not bool(tensor.isfinite().all()):
        raise refuse(f"{name} has numbers that are not finite (NaN or infinity)")
    return tensor.float()


def _check_sites(
    module: _Module, taken: Mapping[Site, LoraPart], shapes: Mapping[Site, tuple[int, int]], origin: str, refuse: Refuse
) -> None:
    for letter, other in (("A", "B"), ("B", "A")):
        if letter not in module.pair:
            raise refuse(f"{module.name} has its {other} but not its {letter}")
    for site in module.sites:
        if site not in shapes:
            layers = 1 + max((layer for layer, _ in shapes), default=-1)
            what = f"{layers} layers" if module.layer >= layers else "none in that layer (a mixture of experts?)"
            raise refuse(f"it updates {module.name}, but the model has {what}; {origin}")
        if site in taken:
            raise refuse(f"{module.name} updates {site[1]!r} of layer {site[0]}, which another module updates as well")
    out, columns = sum(shapes[site][0] for site in module.sites), shapes[module.sites[0]][1]
    a, b = module.pair["A"], module.pair["B"]
    if a.shape[1] != columns or b.shape[0] != out or a.shape[0] != b.shape[1]:
        raise refuse(
            f"{module.name} has A {list(a.shape)} and B {list(b.shape)}; the model's weight [{out}, {columns}] needs "
            f"A [rank, {columns}] and B [{out}, rank]; {origin}"
        )


def _parts(
    module: _Module, shapes: Mapping[Site, tuple[int, int]], config: PeftConfig, refuse: Refuse
) -> dict[Site, LoraPart]:
    """The module's updates by site. Those of a fused module share its A."""
    a, b = module.pair["A"], module.pair["B"]
    if a.shape[0] != config.rank(module.name):
        raise refuse(
            f"{module.name} has rank {a.shape[0]} in {WEIGHTS_FILE} and {config.rank(module.name)} in the "
            "configuration (r, rank_pattern): its scale is unknown"
        )
    scale = config.scale(module.name)
    rows = b.split([shapes[site][0] for site in module.sites])
    return {site: LoraPart(a, own, scale) for site, own in zip(module.sites, rows, strict=True)}


def _check_complete(
    modules: Mapping[str, _Module],
    parts: Mapping[Site, LoraPart],
    shapes: Mapping[Site, tuple[int, int]],
    config: PeftConfig,
    refuse: Refuse,
) -> None:
    """Every module that the configuration targets must have come with its weights."""
    prefix = next(iter(modules)).split("layers.")[0]
    missing = []
    for layer, part in shapes:
        names = [f"{prefix}layers.{layer}.{kind}" for kind, covered in _MODULES.items() if part in covered]
        if (layer, part) not in parts and any(config.targets(name, layer) for name in names):
            missing.append(names[0])
    if missing:
        raise refuse(
            f"its configuration targets {missing[0]} and {len(missing) - 1} more modules for which {WEIGHTS_FILE} has "
            "no weights; the file is incomplete"
        )
