"""vLLM's speculative configuration: what it sets, what is noted, what is refused."""

from __future__ import annotations

import json

import pytest

from paceline.errors import InvalidRequestError
from paceline.speculation.options import SpeculationOptions
from paceline.speculation.vllm_config import KEYS, METHODS, NO_EFFECT, REFUSED, parse


def options(**config) -> dict:
    return parse(json.dumps(config)).options


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"method": "ngram"}, {"speculate": ("ngram",)}),
        (
            {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 2, "prompt_lookup_max": 4},
            {"speculate": ("ngram",), "max_draft": 5, "ngram_min": 2, "ngram_max": 4},
        ),
        ({"method": "ngram", "prompt_lookup_max": 1}, {"speculate": ("ngram",), "ngram_min": 1, "ngram_max": 1}),
        ({"method": "ngram", "prompt_lookup_min": 7}, {"speculate": ("ngram",), "ngram_min": 7, "ngram_max": 7}),
        (
            {
                "method": "suffix",
                "suffix_decoding_max_tree_depth": 24,
                "suffix_decoding_max_spec_factor": 1,
                "suffix_decoding_min_token_prob": 0.2,
                "suffix_decoding_max_cached_requests": 0,
            },
            {
                "speculate": ("suffix",),
                "suffix_max_depth": 24,
                "suffix_max_factor": 1.0,
                "suffix_min_probability": 0.2,
                "suffix_max_cached_tokens": 0,
            },
        ),
        (
            {"method": "draft_model", "model": "tiny", "num_speculative_tokens": 3},
            {"speculate": ("model",), "draft_model": "tiny", "max_draft": 3},
        ),
        ({"model": "tiny"}, {"speculate": ("model",), "draft_model": "tiny"}),
        ({"method": "suffix", "num_speculative_tokens": None}, {"speculate": ("suffix",)}),
    ],
)
def test_keys_set_the_options_that_mean_the_same(config, expected) -> None:
    assert options(**config) == expected
    SpeculationOptions(**expected).validate()


def test_every_key_sets_a_field_that_exists() -> None:
    assert {key.option for key in KEYS.values()} <= set(SpeculationOptions.__struct_fields__)


@pytest.mark.parametrize("method", ["eagle", "eagle3", "medusa", "mtp", "qwen3_next_mtp", "mlp_speculator", "dflash"])
def test_methods_that_are_not_there_yet_are_refused_by_name(method) -> None:
    with pytest.raises(InvalidRequestError, match=f"method '{method}' is not supported yet; there are ngram"):
        options(method=method, model="x")


@pytest.mark.parametrize("key", sorted(NO_EFFECT))
def test_keys_that_make_no_sense_here_are_noted_with_the_reason(key) -> None:
    config = parse(json.dumps({"method": "suffix", key: 1}))
    assert config.options == {"speculate": ("suffix",)}
    assert config.notes == [f"{key} has no effect: {NO_EFFECT[key]}"]


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_keys_that_would_change_something_are_refused_unless_their_value_changes_nothing(key) -> None:
    harmless, reason = REFUSED[key]
    for value in harmless:
        assert options(method="suffix", **{key: value}) == {"speculate": ("suffix",)}
    with pytest.raises(InvalidRequestError) as caught:
        options(method="suffix", **{key: "anything"})
    assert f"{key} 'anything' is not supported: {reason}" in str(caught.value)


def test_what_concerns_another_drafter_is_noted() -> None:
    config = parse('{"method": "suffix", "prompt_lookup_max": 3, "suffix_decoding_max_cached_requests": 100}')
    assert config.options == {"speculate": ("suffix",)}
    assert [note.split(" has")[0] for note in config.notes] == [
        "prompt_lookup_max",
        "suffix_decoding_max_cached_requests",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("ngram", "not valid JSON"),
        ("[1]", r"a JSON object is needed, got \[1\]"),
        ("{}", "method is missing; there are ngram"),
        ('{"method": "ngrams"}', "method must be one of ngram, .*, got 'ngrams'"),
        ('{"method": ["ngram"]}', "method must be one of"),
        ('{"method": {}}', "method must be one of"),
        ('{"method": "ngram", "num_speculative_token": 3}', "unknown key .*; did you mean 'num_speculative_tokens'"),
        ('{"method": "ngram", "zzz": null}', "unknown key 'zzz'; keys with an effect: method, num_speculative_tokens"),
        ('{"method": "ngram", "num_speculative_tokens": "3"}', "must be a whole number, got '3'"),
        ('{"method": "ngram", "num_speculative_tokens": 2.5}', "must be a whole number, got 2.5"),
        ('{"method": "ngram", "num_speculative_tokens": true}', "must be a whole number, got True"),
        ('{"method": "ngram", "num_speculative_tokens": 0}', "must be at least 1, got 0"),
        ('{"method": "draft_model", "model": 7}', "model must be a text, got 7"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_possible(text, message) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        parse(text)
    assert caught.value.param == "speculative_config"


def test_every_method_is_a_drafter() -> None:
    for method, drafter in METHODS.items():
        assert options(method=method, model="x")["speculate"] == (drafter,)
