"""Tokenizers of Hugging Face folders behave as ``transformers`` makes them behave."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.models.tokenizer import load_tokenizer

TEXTS = ["ab ab", "<s>ab</s> x<|tool|>y", "", "é\n日本 ", " <extra>ab"]


def byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ab", "Ġab"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "ab")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_tokens([AddedToken("<|tool|>", normalized=False)])
    return backend


def save(folder: Path, **settings: Any) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>", **settings)
    fast.save_pretrained(folder)
    return fast


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False},
        {"pad_token": "</s>", "unk_token": "<s>"},
    ],
)
def test_ids_and_text_are_those_of_transformers(tmp_path: Path, settings: dict[str, Any]) -> None:
    save(tmp_path)
    edit(tmp_path / "tokenizer_config.json", **settings)
    expected, tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for text in TEXTS:
        for special in (True, False):
            ids = expected.encode(text, add_special_tokens=special)
            assert tokenizer.encode(text, add_special_tokens=special) == ids
            assert tokenizer.decode(ids, skip_special_tokens=special) == expected.decode(
                ids, skip_special_tokens=special
            )
    assert tokenizer.bos_token_id == expected.bos_token_id
    assert tokenizer.vocab_size == len(expected)
    assert tokenizer.special_ids == set(expected.all_special_ids)


def test_tokens_that_only_the_settings_know_are_added(tmp_path: Path) -> None:
    save(tmp_path)
    size = load_tokenizer(tmp_path).vocab_size
    token = {"content": "<extra>", "special": True, "normalized": False, "lstrip": True}
    declared = json.loads((tmp_path / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {})
    edit(tmp_path / "tokenizer_config.json", added_tokens_decoder={**declared, str(size): token})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("x <extra>ab") == [*tokenizer.encode("x"), size, *tokenizer.encode("ab")]
    assert size in tokenizer.special_ids and tokenizer.vocab_size == size + 1


def test_all_ends_of_the_generation_config_count(tmp_path: Path) -> None:
    save(tmp_path)
    end = load_tokenizer(tmp_path).token_to_id("</s>")
    edit(tmp_path / "config.json", eos_token_id=3)
    assert load_tokenizer(tmp_path).eos_token_ids == {3, end}
    edit(tmp_path / "generation_config.json", eos_token_id=[4, 5])
    assert load_tokenizer(tmp_path).eos_token_ids == {4, 5, end}
    edit(tmp_path / "generation_config.json", eos_token_id=None)
    assert load_tokenizer(tmp_path).eos_token_ids == {3, end}


CHAT = [{"role": "user", "content": "hi"}]


def test_templates_are_found_where_transformers_puts_them(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path / "tokenizer_config.json", chat_template="old {{ messages[0].content }}")
    assert load_tokenizer(tmp_path).apply_chat_template(CHAT) == "old hi"
    (tmp_path / "chat_template.jinja").write_text("new {{ messages[0].content }}")
    assert load_tokenizer(tmp_path).apply_chat_template(CHAT) == "new hi"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }} tools")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.apply_chat_template(CHAT, tools=[{"type": "function"}]) == "1 tools"
    assert tokenizer.apply_chat_template(CHAT) == "new hi"
    assert tokenizer.apply_chat_template(CHAT, chat_template="{{ bos_token }}") == "<s>"


def test_named_templates(tmp_path: Path) -> None:
    save(tmp_path)
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    edit(tmp_path / "tokenizer_config.json", chat_template=named)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.apply_chat_template(CHAT), tokenizer.apply_chat_template(CHAT, tools=[{}])) == ("D", "T")


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidRequestError, match="no chat template"):
        tokenizer.apply_chat_template(CHAT)


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("x" * 40)) == 40


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        load_tokenizer(tmp_path).encode("a\ud800b")


def test_ids_outside_the_vocabulary_have_no_token(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.id_to_token(10**6) is None and tokenizer.id_to_token(-1) is None
    assert tokenizer.decode([tokenizer.vocab_size + 5, *tokenizer.encode("ab")]) == "ab"


@pytest.mark.parametrize("content", [None, "{", '{"model": {"type": "Sorcery"}}'])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


# tokenizer.model ------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_file(path: Path, *, model_type: int = 2, normalizer: bytes = field(4, 0)) -> Path:
    """A sentencepiece model: specials, bytes, a user's token and a few pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁▁", 0.0, 4)]
    pieces += [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
    pieces += [(piece, -float(i), 1) for i, piece in enumerate(["▁", "a", "b", "ab", "▁ab"])]
    data = b""
    for piece, score, kind in pieces:
        body = field(1, piece.encode()) + field(2, score)
        data += field(1, body if kind == 1 else body + field(3, kind))
    data += field(2, field(3, model_type) + field(40, b"skipped")) + field(3, normalizer)
    path.write_bytes(data)
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with nothing but a sentencepiece model and its settings."""
    model_file(tmp_path / "tokenizer.model")
    edit(tmp_path / "tokenizer_config.json", bos_token="<s>", eos_token={"content": "</s>"}, unk_token="<unk>")
    return tmp_path


def tokens(folder: Path, text: str) -> list[str | None]:
    tokenizer = load_tokenizer(folder)
    return [tokenizer.id_to_token(i) for i in tokenizer.encode(text)]


def test_a_sentencepiece_model_needs_no_tokenizer_json(slow: Path) -> None:
    assert tokens(slow, "ab é  b</s>b") == ["<s>", "▁ab", "▁", "<0xC3>", "<0xA9>", "  ", "b", "</s>", "b"]
    tokenizer = load_tokenizer(slow)
    assert tokenizer.decode(tokenizer.encode("ab é  b")) == "ab é  b"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, {2})


def test_settings_decide_on_the_space_in_front_and_the_beginning_token(slow: Path) -> None:
    edit(slow / "tokenizer_config.json", legacy=True)
    assert tokens(slow, "a</s>b") == ["<s>", "▁", "a", "</s>", "▁", "b"]
    edit(slow / "tokenizer_config.json", add_prefix_space=False, add_bos_token=False)
    assert tokens(slow, "a</s>b") == ["a", "</s>", "b"]


def test_a_damaged_sentencepiece_model_is_refused(slow: Path) -> None:
    from paceline.models.sentencepiece import read_model_file

    path = slow / "tokenizer.model"
    data = path.read_bytes()
    for size in (1, 5, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelLoadError):
            read_model_file(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": 1}, "not a sentencepiece BPE model"),
        ({"normalizer": field(4, 1)}, "normalizes"),
        ({"normalizer": field(4, 0) + field(2, b"map")}, "normalizes"),
    ],
)
def test_sentencepiece_models_of_other_kinds_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    from paceline.models.sentencepiece import read_model_file

    with pytest.raises(ModelLoadError, match=message):
        read_model_file(model_file(tmp_path / "m", **options))
