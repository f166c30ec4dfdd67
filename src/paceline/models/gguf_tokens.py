"""Which tokens end a text, by a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTROL = 3  # GGUF's token type of special tokens

#: GGUF names one or two tokens that end a turn; models emit any of these, so all that are special tokens count.
_TURN_ENDS = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
}


def turn_end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Ids of the tokens that end a text: those that the file names first."""
    roles = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [int(metadata[key]) for role in roles if (key := f"tokenizer.ggml.{role}") in metadata]
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if tokens is not None and types is not None:
        found += [i for i, token in enumerate(tokens) if token in _TURN_ENDS and types[i] == CONTROL]
    return list(dict.fromkeys(found))
