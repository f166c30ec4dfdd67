"""Sampling parameters are refused at the door, by name, with their value."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from paceline.errors import InvalidRequestError
from paceline.sampling.params import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("logprobs", -1),
        ("logprobs", 101),
        ("prompt_logprobs", 101),
        ("seed", 2**64),
        ("stop", ("a", "")),
        ("bad_words", ("",)),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {100: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("stop_token_ids", (100,)),
    ],
)
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as error:
        SamplingParams(**{name: value}).validate(vocab_size=100)
    assert error.value.param == name


def test_defaults_and_limits_are_good() -> None:
    SamplingParams().validate(100)
    SamplingParams(
        temperature=0.0, top_k=-1, top_p=1e-9, min_p=1.0, seed=-(2**63), logit_bias={99: -100.0}, logprobs=100, n=128
    ).validate(100)


def test_min_tokens_beyond_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="5 > 4"):
        SamplingParams(min_tokens=5, max_tokens=4).validate()


def test_parameters_survive_the_wire() -> None:
    params = SamplingParams(
        temperature=0.3, logit_bias={5: 1.5}, bad_words_ids=((1, 2), (3,)), stop=("x",), seed=2**64 - 1
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
