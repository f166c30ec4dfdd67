"""Opens the ``turbo`` drafter: reads the speculator's folder, checks that it fits the target, lays it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paceline.backends.base import Backend, CacheDtype
from paceline.errors import ModelLoadError
from paceline.kv.sizing import cache_bytes
from paceline.models.loading import LoadedModel
from paceline.quantization.packed import PackedWeight
from paceline.speculation.drafters.turbo import MAX_ROWS, TurboDrafter
from paceline.speculation.drafters.turbo_format import SpeculatorConfig, read_stored
from paceline.speculation.drafters.turbo_model import WeightKind, lay_out


@dataclass(frozen=True, slots=True)
class OpenedSpeculator:
    """What was opened, for the report at start."""

    name: str
    config: SpeculatorConfig
    weights_bytes: int
    cache_bytes: int


def open_turbo_drafter(
    folder: str | Path,
    target: LoadedModel,
    backend: Backend,
    *,
    target_name: str,
    max_sequences: int,
    max_tokens: int,
    kind: WeightKind | None = None,
    cache_dtype: CacheDtype | None = None,
) -> tuple[TurboDrafter, OpenedSpeculator]:
    """The drafter for the speculator in ``folder``, beside ``target`` that runs on ``backend`` under ``target_name``.

    ``kind``: how its matrices are kept; None: q8 where the backend has integer kernels, else as they are. Raises
    ``ModelLoadError`` when the folder is none of a speculator, it was made for another model, or it is damaged.
    """
    folder = Path(folder)
    config, tensors = read_stored(folder)
    config.check_target(target.spec, target_name)
    for name, tensor in tensors.items():
        numbers = tensor.scale if isinstance(tensor, PackedWeight) else tensor  # codes are finite by themselves
        if numbers is not None and not bool(numbers.isfinite().all()):
            raise ModelLoadError(f"{folder}: tensor {name!r} has numbers that are not finite (NaN or infinity)")
    if max_sequences < 1 or max_tokens < 1:
        raise ModelLoadError(f"a drafter needs sequences and tokens, got {max_sequences} and {max_tokens}")
    own = backend.sibling()
    kind = kind or ("q8" if backend.name == "cpu" else "f32")
    model = lay_out(config, tensors, target.weights.embedding, own, kind)
    rows = max(MAX_ROWS, max_sequences * (config.positions + 2))
    dtype = cache_dtype or backend.cache_dtype
    drafter = TurboDrafter(model, own, max_sequences, max_tokens, max_rows=rows, cache_dtype=dtype)
    size = cache_bytes(drafter.cache_spec, drafter.num_blocks)
    return drafter, OpenedSpeculator(folder.name, config, model.weights_bytes, size)
