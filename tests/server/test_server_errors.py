"""Whatever goes wrong, the client gets OpenAI's error form, the right status and words that help."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import Script, wait_until

from paceline.errors import EngineDeadError, OverloadedError

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in an answer, checked for its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def send(live, content: bytes, path: str = CHAT, **headers: str) -> httpx.Response:
    return live.http.post(live.url + path, content=content, headers=headers)


def test_invalid_parameter(live):
    error = error_of(live.post(CHAT, {"messages": MESSAGES, "temperature": 1000}), 400)
    assert error["param"] == "temperature" and "between 0 and 100, got 1000" in error["message"]


def test_unknown_parameter(live):
    error = error_of(live.post(CHAT, {"messages": MESSAGES, "max_token": 1}), 400)
    assert error["message"] == "Unknown parameter: 'max_token'. Did you mean 'max_tokens'?"


def test_malformed_json(live):
    assert error_of(send(live, b'{"a":', **{"content-type": "application/json"}), 400)["code"] == "invalid_json"


def test_wrong_content_type(live):
    error = error_of(send(live, b"a=1", **{"content-type": "application/x-www-form-urlencoded"}), 415)
    assert "application/json" in error["message"]


def test_missing_content_type_is_taken_as_json(live):
    assert send(live, json.dumps({"messages": MESSAGES}).encode()).status_code == 200


def test_unknown_route(live):
    assert error_of(live.get("/v2/chat"), 404)["message"] == "There is no GET /v2/chat."


def test_wrong_method(live):
    response = live.get(CHAT)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize"])
def test_unknown_model(live, path):
    body = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
    error = error_of(live.post(path, {**body, "model": "tinny"}), 404)
    assert error["code"] == "model_not_found" and "Did you mean 'tiny'" in error["message"]


def test_prompt_beyond_the_context_is_refused_with_the_numbers(live):
    error = error_of(live.post("/v1/completions", {"prompt": "x" * 3000}), 400)
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"] and "3000" in error["message"]


def test_too_many_new_tokens_are_refused_with_the_numbers(live):
    error = error_of(live.post("/v1/completions", {"prompt": "x" * 100, "max_tokens": 2000}), 400)
    assert all(number in error["message"] for number in ("2048", "100", "2000"))


def test_empty_prompt(live):
    assert "empty" in error_of(live.post("/v1/completions", {"prompt": ""}), 400)["message"]


def test_token_ids_outside_the_vocabulary(live):
    assert "999" in error_of(live.post("/v1/completions", {"prompt": [1, 999]}), 400)["message"]
    assert "-1" in error_of(live.post("/detokenize", {"tokens": [-1]}), 400)["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_429_with_retry_after(live, stream):
    live.engine.script = Script(fail=lambda: OverloadedError("256 requests wait, the limit is 256", 2.2))
    response = live.post(CHAT, {"messages": MESSAGES, "stream": stream})
    error = error_of(response, 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_engine_is_503(live, stream):
    live.engine.script = Script(fail=lambda: EngineDeadError("the engine died 3 times"))
    error = error_of(live.post(CHAT, {"messages": MESSAGES, "stream": stream}), 503)
    assert (error["code"], error["message"]) == ("engine_dead", "the engine died 3 times")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unforeseen_error_is_500_without_its_details(live, stream, caplog):
    live.engine.script = Script(fail=lambda: RuntimeError("secret detail"))
    response = live.post(CHAT, {"messages": MESSAGES, "stream": stream})
    error_of(response, 500)
    assert response.headers["connection"] == "close", "the server does close it"
    assert "secret" not in response.text and "Traceback" not in response.text
    wait_until(lambda: "secret detail" in caplog.text)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_that_the_engine_reports_is_500_with_its_words(live, stream):
    live.engine.script = Script(delta_error="out of blocks")
    error = error_of(live.post(CHAT, {"messages": MESSAGES, "stream": stream}), 500)
    assert error["message"] == "out of blocks"


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(live, caplog):
    live.engine.script = Script(fail=lambda: EngineDeadError("the engine died"), fail_after=3)
    response = live.post(CHAT, {"messages": MESSAGES, "stream": True})
    *chunks, error, done, _ = response.text.split("\n\n")
    assert response.status_code == 200 and len(chunks) == 3
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "the engine died"
    assert done == "data: [DONE]"


def test_the_openai_client_raises_its_own_kinds_of_errors(live):
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="other", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="'tools' is not supported"):
            client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[{"type": "function"}])  # type: ignore
        live.engine.script = Script(fail=lambda: OverloadedError("full"))
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="tiny", messages=MESSAGES)
        live.engine.script = Script(fail=lambda: EngineDeadError("gone"), fail_after=2)
        with pytest.raises(openai.APIError, match="gone"):
            list(client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))


def test_requests_are_refused_while_the_model_loads(serve):
    server = serve(loaded=False)
    response = server.post(CHAT, {"messages": MESSAGES})
    assert error_of(response, 503)["code"] == "loading"
    assert response.headers["retry-after"] == "1"
    assert server.get("/health").status_code == 200
    error_of(server.get("/ready"), 503)
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] is None
    server.load()
    assert server.get("/ready").status_code == 200
    assert server.post(CHAT, {"messages": MESSAGES}).status_code == 200


def test_readiness_follows_the_engine(serve):
    server = serve()
    server.engine.serving = False
    assert error_of(server.get("/ready"), 503)["code"] == "restarting"
    assert server.post(CHAT, {"messages": MESSAGES}).status_code == 200  # requests wait for the new engine
    server.engine.dead = "the engine died 3 times"
    assert error_of(server.get("/ready"), 503)["code"] == "engine_dead"
    assert error_of(server.post(CHAT, {"messages": MESSAGES}), 503)["message"] == "the engine died 3 times"
    assert server.get("/health").status_code == 200


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
NAMES = (
    "model", "messages", "prompt", "n", "max_tokens", "temperature", "top_p", "top_k", "stop", "stream", "logprobs",
    "top_logprobs", "echo", "logit_bias", "seed", "stop_token_ids", "bad_words", "stream_options", "tools", "user",
    "chat_template_kwargs", "tokens", "priority", "min_tokens", "prompt_logprobs", "best_of", "response_format",
    "speculative", "guided_choice", "structured_outputs",
)  # fmt: skip
bodies = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([CHAT, "/v1/completions", "/tokenize", "/detokenize"]), body=bodies, valid=st.booleans())
def test_no_body_is_ever_answered_with_500(live, path, body, valid):
    live.engine.script = Script(text="ab")
    if valid:  # get past the required fields, so that the others are looked at
        body = {**body, **({"messages": MESSAGES} if path == CHAT else {"prompt": "hi"})}
    raw = json.dumps(body).encode()
    response = send(live, raw, path, **{"content-type": "application/json"})
    assert response.status_code < 500, (raw, response.text)
    if response.status_code != 200:
        error_of(response, response.status_code)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
def test_no_bytes_are_ever_answered_with_500(live, raw):
    error_of(send(live, raw, **{"content-type": "application/json"}), 400)
