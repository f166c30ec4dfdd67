"""Finds the speculator that the package brings for a model, if it brings one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import paceline
from paceline.errors import ModelLoadError
from paceline.models.checkpoint import open_checkpoint
from paceline.models.spec import ModelSpec
from paceline.speculation.drafters.turbo_format import CONFIG, TargetMark, read_config

FOLDER = Path(paceline.__file__).parent / "speculators"
TOLERANCE = 0.01  # of the gains of the last norm, relative; files of one model differ by rounding to 16 bits

#: Where checkpoints put their last norm.
_DECODERS = ("model.", "model.language_model.", "language_model.model.", "")


def shipped_speculator(spec: ModelSpec, path: Path | None, folder: Path = FOLDER) -> Path | None:
    """The folder of the speculator that was trained for the model at ``path`` (None: unknown, nothing is found).

    It is one for the model's very shape whose ``target_norm`` are the gains of the model's last norm: training changes
    those, quantization leaves them. For most models no weights are read. A fine-tune whose norm is within
    ``TOLERANCE`` gets it too, and drafts that it accepts less often are for the controller to judge.
    """
    if path is None or not folder.is_dir():
        return None
    shape = TargetMark.of(spec, "").shape_hash
    for found in sorted(folder.iterdir()):
        if not (found / CONFIG).is_file():
            continue
        config = read_config(found)
        if config.target.shape_hash == shape and config.target_norm:
            gains = last_norm(spec, path)
            if gains is not None and same_gains(gains, config.target_norm):
                return found
    return None


def last_norm(spec: ModelSpec, path: Path) -> torch.Tensor | None:
    """Gains of the model's last norm ``[hidden]``; None where its file has none under a known name."""
    try:
        checkpoint = open_checkpoint(path)
    except ModelLoadError:  # a model that was made in memory: what it is like nobody can tell
        return None
    try:
        for decoder in _DECODERS:
            name = f"{decoder}{spec.names.final_norm}.weight"
            if name in checkpoint:
                return checkpoint.get_tensor(name).float() + spec.norm_offset
        return None
    finally:
        checkpoint.close()


def same_gains(gains: torch.Tensor, known: Sequence[float]) -> bool:
    wanted = torch.tensor(known)
    return len(gains) >= len(wanted) and torch.allclose(gains[: len(wanted)], wanted, rtol=TOLERANCE, atol=1e-4)
