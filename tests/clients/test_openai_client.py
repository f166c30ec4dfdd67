"""The openai library: what its users send, against a real engine."""

from __future__ import annotations

import openai
import pytest

pytestmark = pytest.mark.model
MESSAGES = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_prompt_is_scored_with_and_without_a_new_token(client, served_name):
    def scores(max_tokens: int):
        answer = client.completions.create(
            model=served_name, prompt="The cat sat on the", max_tokens=max_tokens, echo=True, logprobs=1, temperature=0
        )
        return answer.choices[0].logprobs, answer.usage

    (only, usage), (more, more_usage) = scores(0), scores(1)
    assert only.token_logprobs == more.token_logprobs[:-1] and only.token_logprobs[0] is None
    assert len(only.tokens) == usage.prompt_tokens and usage.completion_tokens == 0
    assert "".join(only.tokens) == "The cat sat on the" and more_usage.completion_tokens == 1


def test_prompts_may_be_texts_ids_and_lists_of_both(client, served_name):
    one = client.completions.create(model=served_name, prompt="Red, green,", max_tokens=3, temperature=0, logprobs=0)
    ids = client.post("/../tokenize", body={"prompt": "Red, green,"}, cast_to=object)["tokens"]
    for prompt in (ids, [ids], ["Red, green,"]):
        again = client.completions.create(model=served_name, prompt=prompt, max_tokens=3, temperature=0)
        assert again.choices[0].text == one.choices[0].text
    several = client.completions.create(model=served_name, prompt=["Red,", "One,"], n=2, max_tokens=2, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_lengths_are_as_asked(client, served_name):
    exact = {"min_tokens": 9, "ignore_eos": True}
    answer = client.chat.completions.create(
        model=served_name, messages=MESSAGES, max_completion_tokens=9, extra_body=exact
    )
    assert answer.usage.completion_tokens == 9 and answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9


def test_a_stream_ends_with_its_usage(client, served_name):
    chunks = list(
        client.chat.completions.create(
            model=served_name, messages=MESSAGES, max_tokens=12, temperature=0, stream=True,
            stream_options={"include_usage": True}, logprobs=True, top_logprobs=2,
        )
    )  # fmt: skip
    whole = client.chat.completions.create(model=served_name, messages=MESSAGES, max_tokens=12, temperature=0)
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == whole.choices[0].message.content
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    tokens = [token for c in chunks if c.choices for token in c.choices[0].logprobs.content]
    assert len(tokens) == whole.usage.completion_tokens


def test_a_mistake_is_an_error_of_the_library_with_the_name_of_the_field(client, served_name):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=served_name, prompt="x", temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="This server has"):
        client.completions.create(model="another", prompt="x")
