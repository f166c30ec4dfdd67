"""What a request must be before it is queued."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from paceline.engine.messages import Request
from paceline.errors import InvalidRequestError
from paceline.models.spec import ModelSpec


def check_request(request: Request, spec: ModelSpec, context_length: int, drafters: Seq[str]) -> None:
    """Raises ``InvalidRequestError`` for a request that could never be served: its parameters, its tokens, or its
    length, where a sequence may have ``context_length`` tokens."""
    params, length = request.params, len(request.prompt_ids)
    params.validate(spec.vocab_size)
    if length == 0:
        raise InvalidRequestError("the prompt is empty: it has no tokens", "prompt")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < spec.vocab_size:
        bad = next(token for token in request.prompt_ids if not 0 <= token < spec.vocab_size)
        raise InvalidRequestError(f"prompt: token id {bad} is not in the vocabulary of {spec.vocab_size}", "prompt")
    if length + (params.max_tokens or 1) > context_length:
        asked = "no room is left for output" if params.max_tokens is None else f"max_tokens is {params.max_tokens}"
        why = "" if context_length == spec.context_length else f" (the model supports {spec.context_length})"
        raise InvalidRequestError(
            f"the prompt has {length} tokens and {asked}: the context length is {context_length} tokens here{why}",
            "prompt" if length >= context_length else "max_tokens",
        )
    if params.speculative is not None:
        params.speculative.check_drafters(drafters)
