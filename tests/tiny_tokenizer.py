"""A byte-level tokenizer for the tiny models: 160 tokens, some of them halves of characters."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2, as in the configurations of the tiny models
WORDS = ("th", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "ti", "es", "or", "te", "of", "ed", "is", "it")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
VOCABULARY = 160


def tiny_tokenizer() -> Tokenizer:
    """ASCII, bytes of two- and three-byte characters, and a few pairs of letters."""
    ascii_tokens = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    high = [char for char in sorted(pre_tokenizers.ByteLevel.alphabet()) if ord(char) > 126 and char not in "ĠĊ"]
    tokens = [*SPECIAL, *ascii_tokens, *WORDS]
    tokens += high[: VOCABULARY - len(tokens)]
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    merges = [(word[0], word[1]) for word in WORDS]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def save_tiny_tokenizer(folder: Path) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``."""
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
