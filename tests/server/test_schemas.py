"""Request bodies: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.errors import InvalidRequestError
from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative
from paceline.server import conversion
from paceline.server.parameters import NO_EFFECT, NOT_SUPPORTED
from paceline.server.problems import ApiError
from paceline.server.schemas import ChatCompletionRequest, CompletionRequest, decode_json, parse

MESSAGES = [{"role": "user", "content": "hi"}]
VOCABULARY = 259


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, {"messages": MESSAGES, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"prompt": "hi", **fields})


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def test_unknown_parameter_is_named_with_the_nearest_known_one():
    error = refused(temprature=0.5)
    assert error.message == "Unknown parameter: 'temprature'. Did you mean 'temperature'?"
    assert (error.param, error.code) == ("temprature", "unknown_parameter")


def test_unknown_parameter_is_named_even_when_null():
    assert refused(frobnicate=None).param == "frobnicate"


def test_unknown_parameter_of_the_other_endpoint_is_unknown_here():
    assert refused(echo=True).code == "unknown_parameter"


def test_unknown_parameter_inside_a_message_is_named_with_its_path():
    assert refused(messages=[{"role": "user", "content": "x", "colour": 1}]).param == "messages[0].colour"


def test_missing_messages_are_named():
    with pytest.raises(ApiError, match=r"Missing required parameter: 'messages'"):
        parse(ChatCompletionRequest, {})


@pytest.mark.parametrize(("name", "value"), [("temperature", "0.5"), ("n", 1.5), ("stream", "yes"), ("top_k", True)])
def test_types_are_not_coerced(name: str, value: Any):
    error = refused(**{name: value})
    assert error.param == name
    assert repr(value) in error.message


def test_null_means_the_default():
    given = dict.fromkeys(("temperature", "n", "stop", "stream", "max_tokens", "logit_bias", "user", "tools"))
    assert chat(**given) == chat()


@pytest.mark.parametrize("name", sorted(NO_EFFECT.keys() - {"store"}))
def test_parameters_without_effect_are_accepted(name: str):
    assert chat(**{name: "anything"}) == chat()


@pytest.mark.parametrize("name", sorted(NOT_SUPPORTED))
def test_unsupported_parameters_are_refused_by_name(name: str):
    error = refused(**{name: [{"type": "anything"}]})
    assert error.message.startswith(f"'{name}' is not supported: ")
    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("tool_choice", "none"),
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
        ("best_of", 1),
        ("use_beam_search", False),
    ],
)
def test_unsupported_parameters_are_accepted_with_their_neutral_value(name: str, value: Any):
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize("prompt", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_prompt_takes_all_four_forms(prompt: Any):
    assert completion(prompt=prompt).prompt == prompt


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, [2]], {"a": 1}, 7, [True, False], [1.5]])
def test_other_prompts_are_refused(prompt: Any):
    with pytest.raises(ApiError, match="'prompt'"):
        completion(prompt=prompt)


def test_the_number_of_prompts_is_limited_and_the_number_of_tokens_is_not_by_that():
    with pytest.raises(ApiError, match="at most 1024 prompts"):
        completion(prompt=["x"] * 1025)
    assert len(completion(prompt=[1] * 5000).prompt) == 5000


def test_text_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "a\nb"


def test_images_are_refused_by_name():
    parts = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    assert "'image_url'" in refused(messages=[{"role": "user", "content": parts}]).message


def test_an_answer_can_be_sent_back_as_the_client_library_dumps_it():
    answer = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "tool_calls": None,
        "annotations": [],
        "audio": None,
    }
    assert chat(messages=[*MESSAGES, answer]).messages[1].content == "x"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(raw: bytes):
    with pytest.raises(ApiError) as caught:
        decode_json(raw)
    assert caught.value.status == 400


def test_every_sampling_parameter_reaches_the_engine(tokenizer):
    given: dict[str, Any] = {
        "n": 2, "min_tokens": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "typical_p": 0.8,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "seed": 7, "ignore_eos": True,
        "include_stop_str_in_output": True, "skip_special_tokens": False, "max_tokens": 9, "logprobs": 3,
        "prompt_logprobs": 2,
    }  # fmt: skip
    wishes: dict[str, Any] = {"guided_choice": ["a"], "speculative": {"max_draft": 3}}
    lists = {"stop": ["END"], "stop_token_ids": [5], "bad_words": ["rude"], "logit_bias": {"12": -100}}
    params = conversion.completion_params(completion(**given, **lists, **wishes), tokenizer, VOCABULARY)
    assert {name: getattr(params, name) for name in given} == given
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (("END",), (5,), {12: -100.0})
    assert params.bad_words_ids == (tuple(b"rude"), tuple(b" rude"))
    assert (params.choice, params.choice_ids) == (("a",), ((97,),))
    assert params.speculative == Speculative(max_draft=3)
    covered = {*given, *lists, "bad_words_ids", "choice", "choice_ids", "speculative"}
    assert covered == set(SamplingParams.__struct_fields__)


def test_defaults_are_those_of_openai(tokenizer):
    assert conversion.completion_params(completion(), tokenizer, VOCABULARY) == SamplingParams(max_tokens=16)
    assert conversion.chat_params(chat(), tokenizer, VOCABULARY) == SamplingParams()


def test_max_completion_tokens_takes_precedence(tokenizer):
    assert conversion.chat_params(chat(max_tokens=3, max_completion_tokens=5), tokenizer, VOCABULARY).max_tokens == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_token_ids": [300]}, "stop_token_ids"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_values_out_of_range_are_refused_with_their_name(fields: dict[str, Any], param: str, tokenizer):
    with pytest.raises(InvalidRequestError) as caught:
        conversion.chat_params(chat(**fields), tokenizer, VOCABULARY)
    assert caught.value.param == param


def test_a_prompt_is_scored_without_an_end_that_could_change_the_reason(tokenizer):
    body = completion(echo=True, max_tokens=0, logprobs=1, stop=["x"])
    params = conversion.completion_params(body, tokenizer, VOCABULARY)
    assert (params.max_tokens, params.prompt_logprobs, params.stop, params.ignore_eos) == (1, 1, (), True)


def test_no_new_tokens_without_echo_are_refused(tokenizer):
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        conversion.completion_params(completion(max_tokens=0), tokenizer, VOCABULARY)


def test_a_seed_is_drawn_for_each_request_when_none_is_given(tokenizer):
    body = completion()
    params = conversion.completion_params(body, tokenizer, VOCABULARY)
    drawn = {conversion.to_request("a", [1], params, body, 0.0).params.seed for _ in range(20)}
    assert len(drawn) == 20 and None not in drawn


def test_developer_messages_reach_the_template_as_system(tokenizer):
    body = chat(messages=[{"role": "developer", "content": "be kind"}, *MESSAGES])
    assert conversion.chat_prompt(body, tokenizer).startswith("<|im_start|>system\nbe kind")


def test_continue_final_message_leaves_the_last_turn_open(tokenizer):
    body = chat(messages=[*MESSAGES, {"role": "assistant", "content": "Sure,"}], continue_final_message=True)
    assert conversion.chat_prompt(body, tokenizer).endswith("<|im_start|>assistant\nSure,")


def test_a_request_cannot_bring_its_own_template(tokenizer):
    body = chat(chat_template_kwargs={"chat_template": "{{ 1 }}"})
    with pytest.raises(InvalidRequestError, match="chat_template_kwargs must not contain 'chat_template'"):
        conversion.chat_prompt(body, tokenizer)


def test_what_the_chat_template_refuses_is_the_clients_error(tokenizer):
    with pytest.raises(InvalidRequestError, match="must begin with a user"):
        conversion.chat_prompt(chat(messages=[{"role": "assistant", "content": "hi"}]), tokenizer)
