"""The tokenizer of a GGUF file, built from its metadata.

Two models: ``gpt2`` (byte-level BPE with a pre-tokenizer named by ``tokenizer.ggml.pre``) and ``llama`` (sentencepiece
BPE: pieces with scores, bytes as a fallback). Checked against llama.cpp's ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models

from paceline.errors import ModelLoadError
from paceline.models.gguf_tokens import turn_end_ids
from paceline.models.sentencepiece import NORMAL, SentencePieces, SpacePrefix, sentencepiece_backend
from paceline.models.tokenizer import Tokenizer, add_bos_eos
from paceline.models.tokenizer_pre import PreTokenization, pre_tokenization
from paceline.quantization.gguf_file import GgufFile


def gguf_tokenizer(path: str | Path) -> Tokenizer:
    """Reads the tokenizer of a GGUF file. Raises ``ModelLoadError`` for a tokenizer model that is not supported."""
    with GgufFile(path) as file:
        metadata = file.metadata
    try:
        return _from_metadata(metadata)
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception for a vocabulary that contradicts itself
        raise ModelLoadError(f"{path}: the tokenizer in the file cannot be built: {error}") from error


class _Vocabulary:
    """The ``tokenizer.ggml.*`` keys."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []
        if not self.tokens:
            raise ModelLoadError("the file has no tokenizer (tokenizer.ggml.tokens)")
        types = self.get("token_type")
        self.types: list[int] = [NORMAL] * len(self.tokens) if types is None else types.tolist()

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def token(self, role: str) -> str | None:
        """Text of the token that plays ``role`` (bos, eos, ...)."""
        index = self.get(f"{role}_token_id")
        return self.tokens[index] if index is not None and index < len(self.tokens) else None

    def pieces(self) -> SentencePieces:
        """The vocabulary in sentencepiece's terms."""
        scores = self.get("scores")
        ranked = [0.0] * len(self.tokens) if scores is None else scores.tolist()
        prefix: SpacePrefix = "always" if self.get("add_space_prefix", True) else "never"
        return SentencePieces(self.tokens, ranked, self.types, prefix)


def _from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    vocabulary = _Vocabulary(metadata)
    model = vocabulary.get("model")
    if model == "gpt2":
        pre = pre_tokenization(vocabulary.get("pre"))
        backend, bos_by_default = _byte_level_backend(vocabulary, pre), pre.add_bos
    elif model == "llama":
        backend, bos_by_default = _sentencepiece_backend(vocabulary), True
    else:
        raise ModelLoadError(f"tokenizer model {model!r} is not supported; supported: gpt2, llama")
    bos, eos = vocabulary.token("bos"), vocabulary.token("eos")
    add_bos_eos(
        backend,
        bos if vocabulary.get("add_bos_token", bos_by_default) else None,
        eos if vocabulary.get("add_eos_token", False) else None,
    )
    roles = {"bos_token": bos, "eos_token": eos, "unk_token": vocabulary.token("unknown")}
    roles["pad_token"] = vocabulary.token("padding")
    return Tokenizer(
        backend,
        special_tokens={role: token for role, token in roles.items() if token is not None},
        eos_token_ids=turn_end_ids(metadata),
        chat_templates=_chat_templates(metadata),
    )


def _byte_level_backend(vocabulary: _Vocabulary, pre: PreTokenization) -> tokenizers.Tokenizer:
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.get("merges") or [])]
    unknown = next((merge for merge in merges if merge[0] + merge[1] not in ids), None)
    if unknown is not None:  # tokenizers would abort with a stack trace
        raise ModelLoadError(f"the merge {unknown} makes no token of the vocabulary")
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=pre.ignore_merges))
    pre.apply(backend)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(vocabulary.pieces().added_tokens())
    return backend


def _sentencepiece_backend(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    if vocabulary.get("scores") is None:
        raise ModelLoadError("the file has no tokenizer.ggml.scores, which a sentencepiece tokenizer needs")
    return sentencepiece_backend(vocabulary.pieces())


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    templates = {"default": metadata[prefix]} if metadata.get(prefix) else {}
    templates.update((key[len(prefix) + 1 :], text) for key, text in metadata.items() if key.startswith(prefix + "."))
    return templates
