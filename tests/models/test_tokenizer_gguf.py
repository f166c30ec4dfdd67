"""Tokenizers built from GGUF metadata give the ids that the models were trained with."""

from __future__ import annotations

import itertools
import random
import string
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from paceline.errors import ModelLoadError
from paceline.models.cache import cache_folder
from paceline.models.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieces
from paceline.models.sentencepiece import sentencepiece_backend as build
from paceline.models.sources import ALIASES
from paceline.models.tokenizer import Tokenizer, load_tokenizer
from paceline.models.tokenizer_pre import pre_tokenization

TEXTS = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "x = 3.14159 + 0x2A  # two  spaces\n\tif x >= 1_000:\n        return [x]\n",
    "Zürich, naïve café — ½ of Ⅷ, ٣٤ and １２",
    "日本語のテキスト。한국어 👩‍🚀🇨🇭",
    "  leading, trailing   \r\n\r\n\r\n",
    " it's I'LL don't THEY'RE",
    "e\u0301 \u00a0\u2003 \ufeff\x00\x7f",
)


def _ids(table: str) -> list[list[int]]:
    return [[int(word) for word in row.split()] for row in table.split(";")]


#: Ids that llama.cpp gives for TEXTS, separated by semicolons.
SMOLLM2_IDS = _ids("""
504 2365 6354 16438 27003 690 216 33 35 23790 5046 30 ;
104 446 216 35 30 33 36 33 37 41 1232 216 32 104 34 49 216 907 827 216 5600 198 197 342 1792 10888 216 33 79
32 32 32 42 448 1003 933 104 77 198 ;
74 7170 5130 28 15486 46494 37366 1841 216 16738 282 216 173 223 117 28 216 164 113 164 114 284 216 8083 235
8083 236 ;
23274 115 40993 179 120 248 26453 11100 224 10391 251 10391 134 11100 226 19076 33085 246 181 130 251 183 240
129 15107 235 119 321 231 10813 244 218 10813 225 118 10813 225 251 ;
216 2899 28 35079 333 18682 2738 ;
357 506 339 23 16421 1326 982 6462 73 23 3256 ;
85 151 219 3351 250 321 221 216 186 136 140 190 217
""")
GEMMA3_IDS = _ids("""
818 3823 8864 37423 38167 1024 236743 236770 236800 31770 12414 236761 ;
236781 578 236743 236800 236761 236770 236812 236770 236810 236819 900 236743 236771 236781 236778 236776 138
236865 1156 138 35220 107 255968 584 1123 6867 236743 236770 236779 236771 236771 236771 236787 107 144 2060
870 236781 236842 107 ;
236953 105214 236764 120362 33443 2192 47041 529 236743 251329 236764 223766 242090 532 236743 238254 238540 ;
94951 236945 95830 236924 114216 237430 236743 243767 237243 242015 245744 247396 ;
138 26016 236764 45330 139 251 107 251 107 251 107 ;
625 236789 236751 564 236789 2182 1537 236789 236745 98321 236789 1357 ;
236744 238288 236743 432 398 464 366 369 39131 238 251541
""")


# The real models ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma() -> Path:
    path = cache_folder() / "models" / ALIASES["gemma3-270m"].filename
    if not path.is_file():
        pytest.skip("gemma3-270m is not in the cache")
    return path


@pytest.mark.model
def test_the_default_model_has_the_ids_of_llama_cpp(default_model: Path) -> None:
    tokenizer = load_tokenizer(default_model)
    assert [tokenizer.encode(text) for text in TEXTS] == SMOLLM2_IDS
    assert [tokenizer.decode(ids) for ids in SMOLLM2_IDS] == list(TEXTS)


@pytest.mark.model
def test_gemma_has_the_ids_of_llama_cpp(gemma: Path) -> None:
    tokenizer = load_tokenizer(gemma)
    assert [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS] == GEMMA3_IDS
    assert tokenizer.encode(TEXTS[0]) == [2, *GEMMA3_IDS[0]]
    assert [tokenizer.decode(ids) for ids in GEMMA3_IDS] == list(TEXTS)


@pytest.mark.model
def test_the_default_model_knows_its_special_tokens_and_its_template(default_model: Path) -> None:
    tokenizer = load_tokenizer(default_model)
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (49152, 1, {0, 2})
    assert tokenizer.special_ids == set(range(17))
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    assert ids[0] == 1 and ids.count(2) == 2
    assert "<|im_end|>" not in tokenizer.decode(ids)
    assert tokenizer.decode(ids, skip_special_tokens=False) == prompt


# Byte-level BPE -------------------------------------------------------------------------------------------------

BYTES = sorted(ByteLevel.alphabet())


def write(path: Path, model: str, tokens: list[str], types: list[int], **values: Any) -> Path:
    """A GGUF file with a tokenizer and nothing else."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in values.items():
        name = f"tokenizer.ggml.{key}"
        if key == "chat_template":
            writer.add_chat_template(value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(path: Path, pre: str | None = "gpt-2", **values: Any) -> Tokenizer:
    """All bytes, a few merges, two control tokens and one of the user's."""
    merges = ["a b", "Ġ ab", "1 2"]
    tokens = [*BYTES, "ab", "Ġab", "12", "abc", "<s>", "<|im_end|>", "<think>"]
    types = [NORMAL] * (len(tokens) - 3) + [CONTROL, CONTROL, USER_DEFINED]
    if pre is not None:
        values["pre"] = pre
    bos, eos = len(tokens) - 3, len(tokens) - 2
    return load_tokenizer(
        write(path / "t.gguf", "gpt2", tokens, types, merges=merges, bos_token_id=bos, eos_token_id=eos, **values)
    )


def pieces(tokenizer: Tokenizer, text: str) -> list[str | None]:
    return [tokenizer.id_to_token(i) for i in tokenizer.encode(text)]


def test_merges_control_tokens_and_the_users_tokens(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    assert pieces(tokenizer, "ab ab12<think>c<|im_end|>") == ["ab", "Ġab", "12", "<think>", "c", "<|im_end|>"]
    ids = tokenizer.encode("é <think> <|im_end|>")
    assert tokenizer.decode(ids) == "é <think> "
    assert tokenizer.decode(ids, skip_special_tokens=False) == "é <think> <|im_end|>"


def test_digits_stand_alone_where_the_model_was_trained_so(tmp_path: Path) -> None:
    assert pieces(byte_level(tmp_path, "smollm"), "ab 12") == ["ab", "Ġ", "1", "2"]
    assert pieces(byte_level(tmp_path, "gpt-2"), "ab12") == ["ab", "12"]


def test_words_in_the_vocabulary_need_no_merges_where_the_rule_says_so(tmp_path: Path) -> None:
    assert pieces(byte_level(tmp_path, "gpt-2"), "abc") == ["ab", "c"]
    assert pieces(byte_level(tmp_path, "llama-bpe", add_bos_token=False), "abc") == ["abc"]


@pytest.mark.parametrize(
    ("pre", "values", "expected"),
    [
        ("gpt-2", {}, ["ab"]),
        ("gpt-2", {"add_bos_token": True}, ["<s>", "ab"]),
        ("llama-bpe", {}, ["<s>", "ab"]),
        ("llama-bpe", {"add_bos_token": False}, ["ab"]),
        ("qwen2", {"add_eos_token": True}, ["ab", "<|im_end|>"]),
    ],
)
def test_beginning_and_end_tokens_as_the_file_says(
    tmp_path: Path, pre: str, values: dict[str, bool], expected: list[str]
) -> None:
    tokenizer = byte_level(tmp_path, pre, **values)
    assert pieces(tokenizer, "ab") == expected
    assert tokenizer.encode("ab", add_special_tokens=False) == [tokenizer.token_to_id("ab")]


WORDS = "I'LL pay 12345 USD/m²\n\n  forCamelCase né"
CUTS = {
    "gpt-2": ["I", "'", "LL", " pay", " 12345", " USD", "/", "m", "²", "\n\n ", " forCamelCase", " né"],
    "smollm": ["I", "'", "LL", " pay", " ", *"12345", " USD", "/", "m", "²", "\n\n ", " forCamelCase", " né"],
    "llama-bpe": ["I", "'LL", " pay", " ", "123", "45", " USD", "/m", "²", "\n\n", " ", " forCamelCase", " né"],
    "qwen2": ["I", "'LL", " pay", " ", *"12345", " USD", "/m", "²", "\n\n", " ", " forCamelCase", " né"],
    "tekken": ["I", "'LL", " pay", " ", *"12345", " USD", "/m", "²", "\n\n", " ", " for", "Camel", "Case", " né"],
    "gpt-4o": ["I'LL", " pay", " ", "123", "45", " USD", "/m", "²", "\n\n", " ", " for", "Camel", "Case", " né"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_words_are_cut_as_the_named_rule_cuts_them(tmp_path: Path, pre: str) -> None:
    backend = byte_level(tmp_path, pre).backend
    cuts = [WORDS[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(WORDS)]
    assert cuts == CUTS[pre]


def test_qwen_composes_characters_before_it_cuts(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, "qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")


def test_a_file_that_names_no_rule_gets_gpt2s_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert pieces(byte_level(tmp_path, None), "ab12") == ["ab", "12"]
    assert "GPT-2" in caplog.text


def test_unknown_rules_and_models_are_refused_with_those_supported(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"'klingon' is not supported; supported: gpt-2, .*qwen2"):
        byte_level(tmp_path, "klingon")
    with pytest.raises(ModelLoadError, match="tokenizer model 'bert' is not supported; supported: gpt2, llama"):
        load_tokenizer(write(tmp_path / "b.gguf", "bert", ["a"], [NORMAL]))


def test_a_vocabulary_that_contradicts_itself_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.gguf", "gpt2", ["a", "b"], [NORMAL] * 2, merges=["a b"], pre="gpt-2")
    with pytest.raises(ModelLoadError, match=r"odd\.gguf: the merge \('a', 'b'\) makes no token"):
        load_tokenizer(path)


def test_every_token_that_ends_a_turn_counts(tmp_path: Path) -> None:
    tokens = ["a", "<|end|>", "<eos>", "<|eot_id|>", "<|im_end|>", "<|eom_id|>"]
    types = [NORMAL, CONTROL, CONTROL, CONTROL, NORMAL, CONTROL]  # <|im_end|> is ordinary text in this model
    path = write(tmp_path / "e.gguf", "gpt2", tokens, types, merges=[], pre="gpt-2", eos_token_id=2, eot_token_id=0)
    assert load_tokenizer(path).eos_token_ids == {0, 1, 2, 3, 5}


def test_chat_templates_of_the_file(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    tokenizer = byte_level(tmp_path, chat_template=template)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}]) == "<s>ab<|im_end|>"


# Sentencepiece --------------------------------------------------------------------------------------------------


def sentencepiece(path: Path, **values: Any) -> Tokenizer:
    """Bytes to fall back to and a few pieces, among them two ways to spell ``▁abc``."""
    scored = {"▁": -1.0, "a": -2.0, "b": -3.0, "c": -4.0, "ab": -5.0, "bc": -6.0, "▁a": -7.0, "▁abc": -8.0}
    special = ["<unk>", "<s>", "</s>", "<|user|>", "  "]
    tokens = [*special, *(f"<0x{i:02X}>" for i in range(256)), *scored]
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256, *[NORMAL] * len(scored)]
    scores = [0.0] * 261 + list(scored.values())
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return load_tokenizer(write(path / "s.gguf", "llama", tokens, types, scores=scores, **ids, **values))


def test_the_best_scored_join_comes_first(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path)
    assert pieces(tokenizer, "abc") == ["<s>", "▁", "ab", "c"]  # ab is joined before ▁a, so ▁abc cannot arise
    assert pieces(tokenizer, "bc bc") == ["<s>", "▁", "bc", "▁", "bc"]


def test_characters_outside_the_vocabulary_become_bytes_and_come_back(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path)
    assert pieces(tokenizer, "aé") == ["<s>", "▁a", "<0xC3>", "<0xA9>"]
    for text in ("aé b", "日本 👩‍🚀\n\tx", "a  b"):
        assert tokenizer.decode(sentencepiece(tmp_path, add_space_prefix=False).encode(text)) == text


def test_the_space_in_front_is_added_and_taken_away(tmp_path: Path) -> None:
    with_prefix, without = sentencepiece(tmp_path), sentencepiece(tmp_path, add_space_prefix=False)
    assert pieces(with_prefix, "a b")[1:] == ["▁a", "▁", "b"]
    assert pieces(without, "a b")[1:] == ["a", "▁", "b"]
    assert with_prefix.decode(with_prefix.encode(" a b")) == " a b"
    assert pieces(with_prefix, "<|user|>a")[1:] == ["<|user|>", "▁a"]  # after a special token too


def test_the_users_tokens_are_found_in_the_raw_text(tmp_path: Path) -> None:
    assert pieces(sentencepiece(tmp_path, add_space_prefix=False), "a  b") == ["<s>", "a", "  ", "b"]


def reference_bpe(symbols: list[str], scores: dict[str, float]) -> list[str]:
    """Sentencepiece's rule, word for word: join the neighbours whose union scores best, the leftmost on ties."""
    while True:
        joins = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in scores]
        if not joins:
            return symbols
        at = -max(joins)[1]
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]


def test_merges_recovered_from_scores_do_what_sentencepiece_does() -> None:
    rng = random.Random(0)
    for _ in range(30):
        letters = string.ascii_lowercase[: rng.randint(2, 4)]
        vocabulary = set(letters)
        while len(vocabulary) < 40:  # every piece is the join of two others, as after training
            vocabulary.add(rng.choice(sorted(vocabulary)) + rng.choice(sorted(vocabulary)))
        tokens = ["<unk>", *sorted(vocabulary)]
        values = rng.sample(range(1000), len(tokens))
        scores = {token: -float(value) for token, value in zip(tokens, values, strict=True)}
        types = [UNKNOWN] + [NORMAL] * len(vocabulary)
        backend = build(SentencePieces(tokens, list(scores.values()), types, "never"))
        for _ in range(30):
            text = "".join(rng.choices(letters, k=rng.randint(1, 20)))
            assert backend.encode(text).tokens == reference_bpe(list(text), scores)


def test_scores_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.scores"):
        load_tokenizer(write(tmp_path / "s.gguf", "llama", ["<unk>", "a"], [UNKNOWN, NORMAL]))


def test_every_named_rule_can_be_applied() -> None:
    from paceline.models import tokenizer_pre

    for name in tokenizer_pre._BY_NAME:
        assert pre_tokenization(name) is tokenizer_pre._BY_NAME[name]
