"""The generating endpoints as clients see them: the openai library, and the bytes of a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from scripted_server import EOS

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def events(response: httpx.Response) -> list[Any]:
    """The JSON of every event; the stream must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def stream(live, path: str, **body: Any) -> list[Any]:
    return events(live.post(path, {**body, "stream": True}))


def joined(chunks: list[Any], index: int = 0) -> str:
    """The text of one choice, from chunks of either endpoint."""
    found = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in found)


def test_chat_answers_through_the_openai_client(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello, world"
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    assert answer.usage.completion_tokens == len("Hello, world") + 1
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_completion_answers_through_the_openai_client(client):
    answer = client.completions.create(model="tiny", prompt="hi", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 5, 7)


def test_chat_streams_through_the_openai_client(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == "Hello, world"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 13
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_streams_run_side_by_side_with_the_async_client(live):
    async def one(client: openai.AsyncOpenAI) -> str:
        parts = await client.completions.create(model="tiny", prompt="hi", stream=True)
        return "".join([part.choices[0].text async for part in parts])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client) for _ in range(10)))

    live.engine.script.pause_s = 0.001
    assert asyncio.run(all_of_them()) == ["Hello, world"] * 10


def test_streamed_text_equals_the_whole_text(live):
    live.engine.script.text = 'naïve 日本 👩‍🚀 "quoted" \\ \n end'
    whole = live.post("/v1/completions", {"prompt": "hi", "max_tokens": 99}).json()["choices"][0]["text"]
    assert whole == live.engine.script.text
    assert joined(stream(live, "/v1/completions", prompt="hi", max_tokens=99)) == whole
    assert joined(stream(live, "/v1/chat/completions", messages=MESSAGES)) == whole


def test_the_first_chunk_carries_the_role_and_the_first_text(live):
    first, second, *_ = stream(live, "/v1/chat/completions", messages=MESSAGES)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "H"}
    assert second["choices"][0]["delta"] == {"content": "e"}


def test_the_last_chunk_carries_the_finish_reason(live):
    *others, last = stream(live, "/v1/chat/completions", messages=MESSAGES, max_tokens=3)
    assert last["choices"][0]["finish_reason"] == "length"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in others)


def test_all_chunks_have_the_same_head(live):
    chunks = stream(live, "/v1/chat/completions", messages=MESSAGES)
    heads = {(c["id"], c["object"], c["model"], c["created"]) for c in chunks}
    assert len(heads) == 1
    assert heads.pop()[1] == "chat.completion.chunk"


def test_continuous_usage_counts_up(live):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(live, "/v1/completions", prompt="hi", max_tokens=3, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


@pytest.mark.parametrize("stop", ["wor", ["xyz", "wor"]])
def test_stop_string_ends_the_text_and_is_not_leaked(live, stop):
    body = {"prompt": "hi", "stop": stop}
    choice = live.post("/v1/completions", body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("Hello, ", "stop", "wor")
    assert joined(stream(live, "/v1/completions", **body)) == "Hello, "
    own = {request.request_id for request in live.engine.requests}  # clients of earlier tests may still be going away
    assert sum(request_id in own for request_id, _ in live.engine.aborted) == 2  # the engine was told, both times


def test_stop_string_stays_when_asked_for(live):
    body = {"prompt": "hi", "stop": "wor", "include_stop_str_in_output": True}
    assert live.post("/v1/completions", body).json()["choices"][0]["text"] == "Hello, wor"


def test_n_sequences_are_told_apart(live, client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, n=3)
    assert [(c.index, c.message.content) for c in answer.choices] == [(i, "Hello, world") for i in range(3)]
    chunks = stream(live, "/v1/chat/completions", messages=MESSAGES, n=3)
    assert [joined(chunks, i) for i in range(3)] == ["Hello, world"] * 3
    roles = [c["index"] for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
    assert sorted(roles) == [0, 1, 2]


def test_a_stop_string_ends_each_of_several_sequences(live):
    answer = live.post("/v1/completions", {"prompt": "hi", "n": 2, "stop": ","}).json()
    assert [c["text"] for c in answer["choices"]] == ["Hello", "Hello"]


def test_tokens_that_wait_are_sent_as_one_chunk_a_sequence(live):
    live.engine.script.burst = True
    body = {"messages": MESSAGES, "n": 2, "logprobs": True, "stream_options": {"include_usage": True}}
    *chunks, last = stream(live, "/v1/chat/completions", **body)
    assert [c["choices"][0]["delta"]["content"] for c in chunks] == ["Hello, world"] * 2
    assert all(len(c["choices"][0]["logprobs"]["content"]) == 13 for c in chunks)
    assert last["usage"]["completion_tokens"] == 26


def test_several_prompts_make_choices_in_their_order(live, client):
    answer = client.completions.create(model="tiny", prompt=["a", "b"], n=2, echo=True, max_tokens=5)
    assert [(c.index, c.text) for c in answer.choices] == [
        (0, "aHello"), (1, "aHello"), (2, "bHello"), (3, "bHello"),
    ]  # fmt: skip
    assert answer.usage.prompt_tokens == 2
    chunks = stream(live, "/v1/completions", prompt=["a", "b"], n=2, echo=True, max_tokens=5)
    assert [joined(chunks, i) for i in range(4)] == ["aHello", "aHello", "bHello", "bHello"]


def test_prompts_may_be_token_ids(live):
    live.post("/v1/completions", {"prompt": [[1, 2], [3]]})
    assert sorted(r.prompt_ids for r in live.engine.requests) == [[1, 2], [3]]


def test_chat_logprobs_have_exactly_the_alternatives_asked_for(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=2, max_completion_tokens=2
    )
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("H", -0.5, [72])
    assert [(t.token, t.logprob) for t in first.top_logprobs] == [("H", -0.5), ("I", -1.5)]
    assert second.token == "e"


def test_chat_logprobs_without_alternatives(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, logprobs=True, max_tokens=1)
    assert answer.choices[0].logprobs.content[0].top_logprobs == []


def test_streamed_logprobs_are_those_of_the_whole_answer(live):
    body = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "max_tokens": 4}
    whole = live.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
    chunks = stream(live, "/v1/chat/completions", **body)
    assert [entry for c in chunks for entry in c["choices"][0]["logprobs"]["content"]] == whole


def test_tokens_that_are_parts_of_a_character_are_told_apart(live):
    live.engine.script.text = "é"
    body = {"prompt": "hi", "logprobs": 1, "max_tokens": 2}
    logprobs = live.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs["text_offset"] == [0, 0]


def test_tokens_can_be_written_as_ids(live):
    body = {"prompt": "hi", "logprobs": 1, "max_tokens": 1, "return_tokens_as_token_ids": True}
    logprobs = live.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:72"]
    assert list(logprobs["top_logprobs"][0]) == ["token_id:72"]


def test_echo_with_logprobs_scores_the_prompt_as_lm_eval_needs(client):
    """lm-eval sends the context and continuation as ids, reads positions [context:-1]."""
    prompt = list(b"The end")
    answer = client.completions.create(
        model="tiny", prompt=[prompt], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1
    )
    choice = answer.choices[0]
    assert choice.text == "The endH"
    assert choice.logprobs.tokens == [*"The end", "H"]
    assert choice.logprobs.token_logprobs == [None] + [-0.5] * 7
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset == list(range(8))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_is_scored_without_new_tokens(live, streamed):
    body = {"prompt": "abc", "max_tokens": 0, "logprobs": 1, "echo": True}
    if streamed:
        (chunk, last) = stream(live, "/v1/completions", **body, stream_options={"include_usage": True})
        choice, usage = chunk["choices"][0], last["usage"]
    else:
        answer = live.post("/v1/completions", body).json()
        choice, usage = answer["choices"][0], answer["usage"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert usage["completion_tokens"] == 0


def test_prompt_logprobs_come_in_vllms_form(live):
    body = {"prompt": "ab", "prompt_logprobs": 2, "max_tokens": 1}
    assert live.post("/v1/completions", body).json()["choices"][0]["prompt_logprobs"] == [
        None,
        {
            "98": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
            "99": {"logprob": -1.5, "rank": 2, "decoded_token": "c"},
        },
    ]
    chat = live.post("/v1/chat/completions", {"messages": MESSAGES, "prompt_logprobs": 0, "max_tokens": 1}).json()
    assert chat["prompt_logprobs"][0] is None and len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]


def test_extra_parameters_reach_the_engine(live, client):
    extra = {"top_k": 3, "min_p": 0.1, "ignore_eos": True, "priority": 2, "latency_class": "batch"}
    client.chat.completions.create(model="alias", messages=MESSAGES, seed=5, extra_body=extra)
    request = live.engine.requests[-1]
    assert (request.params.top_k, request.params.min_p, request.params.seed) == (3, 0.1, 5)
    assert (request.priority, request.latency_class) == (2, "batch")


def test_tokenize_and_detokenize_are_inverse(live):
    tokens = live.post("/tokenize", {"prompt": "naïve", "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == 6
    assert tokens["token_strs"][0] == "n"
    assert live.post("/detokenize", {"tokens": tokens["tokens"]}).json() == {"prompt": "naïve"}


def test_tokenize_renders_messages_like_a_chat_does(live):
    tokens = live.post("/tokenize", {"messages": MESSAGES}).json()["tokens"]
    live.post("/v1/chat/completions", {"messages": MESSAGES})
    assert live.engine.requests[-1].prompt_ids == tokens


def test_tokenizer_info_says_what_lm_eval_needs_to_use_the_servers_tokenizer(live):
    info = live.get("/tokenizer_info").json()
    assert info["eos_token"] == "<eos>" and info["bos_token"] is None
    assert "<|im_start|>assistant" in info["chat_template"]
    eos = live.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json()["tokens"]
    assert eos == [EOS]


def test_long_prompts_are_tokenized_off_the_event_loop(live, monkeypatch):
    import threading

    threads: list[str] = []
    encode = live.tokenizer.encode

    def recording(text: str, *options: Any) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(text, *options)

    monkeypatch.setattr(live.tokenizer, "encode", recording)
    live.post("/tokenize", {"prompt": "x"})
    live.post("/tokenize", {"prompt": "x" * 10_000})
    assert threads[0] == live.thread.name
    assert threads[1] != live.thread.name


def test_models_are_listed_with_their_context_length(client):
    assert [(m.id, m.max_model_len) for m in client.models.list()] == [("tiny", 2048), ("alias", 2048)]
    assert client.models.retrieve("alias").id == "alias"
