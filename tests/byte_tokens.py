"""A vocabulary of one token a byte, to say in texts what an engine's tokens are."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from paceline.engine.detokenizer import TokenBytes


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TABLE = TokenBytes(_tokenizer())
_ID = {TABLE[token]: token for token in range(256)}


def ids(text: str) -> list[int]:
    """The tokens that spell ``text``."""
    return [_ID[bytes([byte])] for byte in text.encode()]
