"""Incremental text equals the text of all tokens at once, and never shows half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.engine.detokenizer import TokenBytes

TEXTS = [
    "Hello, world!",
    "  two spaces  and\n\nlines\t.",
    "naïve café – “quotes” …",
    "日本語のテキストです。",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 🇩🇪",
    "العربية עברית हिन्दी",
    "a\u0301 combining, \u200bzero width",
]


def byte_level() -> Tokenizer:
    """Byte-level BPE with almost no merges, so that most characters take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["hello world, the quick brown fox " * 20], trainer)
    tokenizer.add_special_tokens([AddedToken("<|end of text|>", special=True)])
    return tokenizer


def sentencepiece(strip: bool = True) -> Tokenizer:
    """Byte-fallback BPE as in Llama 2 (``strip``) and Gemma: words begin with U+2581."""
    tokens = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"Helo,wrdtheun!.", "▁H", "▁w", "el", "lo", "▁Hel", "▁Hello", "▁wo", "▁▁"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [("▁", "H"), ("▁", "w"), ("e", "l"), ("l", "o"), ("▁H", "el"), ("▁Hel", "lo"), ("▁w", "o"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = sentencepiece()
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    return tokenizer


def word_piece() -> Tokenizer:
    """A decoder that looks at neighbours, so its tokens have no bytes of their own."""
    vocab = {token: i for i, token in enumerate(["[UNK]", "hello", "wor", "##ld", "!", "[SEP]"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken("[SEP]", special=True)])
    return tokenizer


def specials(tokenizer: Tokenizer) -> set[int]:
    return {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None, skip: bool = True) -> list[str]:
    detokenizer = TokenBytes(tokenizer, specials(tokenizer)).detokenizer(prompt or [], skip)
    return [detokenizer.add(token) for token in ids]


@pytest.mark.parametrize("make", [byte_level, sentencepiece, lambda: sentencepiece(strip=False)])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_of_all_tokens(make, text) -> None:
    tokenizer = make()
    ids = tokenizer.encode(text).ids
    got = pieces(tokenizer, ids)
    assert "".join(got) == tokenizer.decode(ids)
    assert len(got) > 1 and "\ufffd" not in "".join(got)


def test_a_character_of_several_tokens_appears_with_its_last_token() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("é日👍").ids
    assert len(ids) == 2 + 3 + 4
    assert pieces(tokenizer, ids) == ["", "é", "", "", "日", "", "", "", "👍"]


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_text_of_prompt_and_output_join_to_the_text_of_both(prompt, text) -> None:
    for tokenizer in _JOINABLE:
        prompt_ids = tokenizer.encode(prompt).ids
        ids = tokenizer.encode(text).ids
        whole = tokenizer.decode(prompt_ids + ids)
        assert tokenizer.decode(prompt_ids) + "".join(pieces(tokenizer, ids, prompt_ids)) == whole


_JOINABLE = (byte_level(), sentencepiece())


@pytest.mark.parametrize("make", [sentencepiece, metaspace])
def test_sentencepiece_drops_the_leading_space_only_at_the_start_of_the_text(make) -> None:
    tokenizer = make()
    hello, bos = tokenizer.token_to_id("▁Hello"), tokenizer.token_to_id("<s>")
    assert pieces(tokenizer, [hello, hello]) == ["Hello", " Hello"]
    assert pieces(tokenizer, [hello], [bos]) == ["Hello"]
    assert pieces(tokenizer, [hello], [bos, hello]) == [" Hello"]
    assert pieces(tokenizer, [bos, hello]) == ["", "Hello"]


def test_the_leading_space_stays_behind_a_special_token_that_is_shown() -> None:
    tokenizer = sentencepiece()
    hello, bos = tokenizer.token_to_id("▁Hello"), tokenizer.token_to_id("<s>")
    assert pieces(tokenizer, [bos, hello], skip=False) == ["<s>", " Hello"]
    assert tokenizer.decode([bos, hello], skip_special_tokens=False) == "<s> Hello"


def test_special_tokens_are_skipped_on_request_even_inside_a_character() -> None:
    tokenizer = byte_level()
    first, second = tokenizer.encode("é").ids
    end = tokenizer.token_to_id("<|end of text|>")
    assert pieces(tokenizer, [first, end, second]) == ["", "", "é"]
    assert pieces(tokenizer, [first, second, end], skip=False) == ["", "é", "<|end of text|>"]


def test_bytes_that_can_never_be_a_character_are_replaced_and_do_not_hold_back_the_rest() -> None:
    tokenizer = byte_level()
    half, letter = tokenizer.encode("日").ids[0], tokenizer.token_to_id("a")
    got = pieces(tokenizer, [half, letter, letter])
    assert got == ["", "\ufffda", "a"]
    assert pieces(tokenizer, [half] * 50)[-1] == "\ufffd"


def test_ids_outside_the_vocabulary_add_nothing() -> None:
    for tokenizer in (byte_level(), sentencepiece(), word_piece()):
        assert pieces(tokenizer, [10**6, 10**7]) == ["", ""]


def test_bytes_of_a_token_are_its_part_of_the_text() -> None:
    tokenizer = byte_level()
    table = TokenBytes(tokenizer)
    ids = tokenizer.encode("é日👍 the").ids
    assert b"".join(table[token] for token in ids) == "é日👍 the".encode()


def test_other_decoders_go_through_the_tokenizer_itself() -> None:
    tokenizer = word_piece()
    ids = tokenizer.encode("hello world !").ids
    assert "".join(pieces(tokenizer, [*ids, 5])) == tokenizer.decode(ids) == "hello world!"
    continued = tokenizer.decode(ids)[len("hello") :]
    assert "".join(pieces(tokenizer, ids[1:], ids[:1])) == continued


def test_a_token_costs_the_same_late_in_a_long_text() -> None:
    """Counts table look-ups instead of seconds: one a token, however long the text is."""
    tokenizer = byte_level()
    looked_up: list[int] = []

    class Counting(TokenBytes):
        def __getitem__(self, token_id: int) -> bytes:
            looked_up.append(token_id)
            return super().__getitem__(token_id)

    table = Counting(tokenizer)
    detokenizer = table.detokenizer([1] * 1000)
    for token in [70] * 500:
        detokenizer.add(token)
    assert len(looked_up) == 500
