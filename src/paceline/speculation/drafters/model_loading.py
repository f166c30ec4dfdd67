"""Opens the ``model`` drafter: finds the small model, checks that it speaks the target's tokens, sizes its cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paceline.backends.base import Backend, CacheDtype
from paceline.errors import ModelLoadError
from paceline.kv.sizing import blocks_within, cache_bytes
from paceline.models.checkpoint import open_checkpoint
from paceline.models.families import model_spec
from paceline.models.loading import LoadedModel, load_checkpoint
from paceline.models.sources import resolve_model
from paceline.models.tokenizer import load_tokenizer
from paceline.speculation.draft_sampling import Draw, draw_independently
from paceline.speculation.drafters.model import MAX_ROWS, ModelDrafter

CACHE_SHARE = 0.5  # of the bytes of the target's cache, at most


@dataclass(frozen=True, slots=True)
class Target:
    """What the drafter needs to know about the model it drafts for. ``path``: its files, for the tokenizer; None where
    there is none to compare (callers that speak in token ids). ``cache_tokens``, ``cache_bytes``: its KV cache."""

    path: Path | None
    vocab_size: int
    context_length: int
    cache_tokens: int
    cache_bytes: int
    max_sequences: int
    model: LoadedModel | None = None  # for drafters that read its hidden states


@dataclass(frozen=True, slots=True)
class DraftModel:
    """What was opened, for the report at start."""

    name: str
    reason: str  # how it was found
    weights_bytes: int
    context_length: int
    cache_tokens: int
    cache_bytes: int


def open_model_drafter(
    name: str,
    backend: Backend,
    target: Target,
    *,
    cache_dtype: CacheDtype | None = None,
    draw: Draw = draw_independently,
) -> tuple[ModelDrafter, DraftModel]:
    """The drafter for model ``name`` (all that ``resolve_model`` takes) beside the target that runs on ``backend``.

    Its cache is made for as many tokens as the target's, in at most ``CACHE_SHARE`` of the bytes; the system gives
    out memory as blocks are first used. Raises ``ModelLoadError`` when the model cannot be found or loaded, or when its
    tokens are not the target's.
    """
    source = resolve_model(name)
    checkpoint = open_checkpoint(source.path)
    try:
        spec = model_spec(checkpoint.config)
        check_vocabulary(source.path, spec.vocab_size, target)
        own = backend.sibling()
        context = min(spec.max_context, target.context_length)
        model = load_checkpoint(checkpoint, own, context_length=context)
    finally:
        checkpoint.close()
    dtype = cache_dtype or backend.cache_dtype
    cache_spec = model.spec.cache_spec(dtype)
    budget = int(target.cache_bytes * CACHE_SHARE)
    max_rows = max(MAX_ROWS, target.max_sequences)
    blocks, tokens = blocks_within(cache_spec, budget, target.cache_tokens, max_rows, target.max_sequences)
    drafter = ModelDrafter(
        model,
        own,
        blocks,
        target.max_sequences,
        vocab_size=target.vocab_size,
        max_rows=max_rows,
        cache_dtype=dtype,
        draw=draw,
    )
    return drafter, DraftModel(
        name=source.name,
        reason=source.reason,
        weights_bytes=model.weights_bytes,
        context_length=drafter.max_tokens,
        cache_tokens=tokens,
        cache_bytes=cache_bytes(cache_spec, blocks),
    )


def check_vocabulary(path: Path, vocab_size: int, target: Target) -> None:
    """Refuses a draft model at ``path`` whose tokens are not the target's.

    With tokenizers to compare, every id that both have must be the same token; the sizes of the embedding tables may
    then differ, as those of one family's models do (padding). Without, the sizes must be equal. Raises
    ``ModelLoadError``."""
    if target.path is None:
        if vocab_size != target.vocab_size:
            raise ModelLoadError(
                f"the draft model {path.name} has a vocabulary of {vocab_size} tokens, the target one of "
                f"{target.vocab_size}: choose a draft model with the target's tokenizer"
            )
        return
    if path.resolve() == target.path.resolve():
        return
    ours, theirs = load_tokenizer(path), load_tokenizer(target.path)
    for token_id in range(min(ours.vocab_size, theirs.vocab_size)):
        own, wanted = ours.id_to_token(token_id), theirs.id_to_token(token_id)
        if own is not None and wanted is not None and own != wanted:
            raise ModelLoadError(
                f"the draft model {path.name} has another tokenizer than the target: token {token_id} is {own!r} "
                f"instead of {wanted!r}; choose a draft model of the target's family"
            )
