"""Single calls to a server: what users may write as its URL, and what they are told when it fails."""

from __future__ import annotations

import pytest
from scripted_http import scripted_http

from paceline.bench.endpoint import EndpointError, endpoint_of, message_in
from paceline.bench.peers.targets import free_port


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("https://api.example.org/models/v1", "https://api.example.org:443/models"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_a_url_may_be_written_in_several_ways(written, url):
    assert endpoint_of(written).url == url


@pytest.mark.parametrize("written", ["ftp://example.org", "http://:80", "", "http://host:port"])
def test_what_is_no_url_of_a_server_is_refused(written):
    with pytest.raises(EndpointError, match="URL"):
        endpoint_of(written)


def test_a_stream_has_its_arrivals_text_and_usage():
    usage = {"completion_tokens": 3, "prompt_tokens": 5}
    texts = [{"choices": [{"text": text}]} for text in ("one", " two")]
    chunks = [*texts, {"choices": [], "usage": usage}]
    asked = []

    def answer(method, path, body):
        asked.append((method, path, body))
        return 200, chunks

    with scripted_http(answer) as url:
        timeline = endpoint_of(url, "key").stream("/v1/completions", {"prompt": "x"})
    assert (timeline.text, timeline.tokens, timeline.prompt_tokens) == ("one two", 3, 5)
    assert len(timeline.arrivals) == 2 and timeline.sent < timeline.arrivals[0] <= timeline.arrivals[1]
    assert asked == [("POST", "/v1/completions", {"prompt": "x", "stream": True})]


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (400, {"error": {"message": "no such thing"}}, "answered 400: no such thing"),
        (500, "it broke", "answered 500: it broke"),
        (200, "<html>", "did not answer with a JSON object"),
    ],
)
def test_an_answer_of_another_kind_is_told_with_what_it_was(status, answer, told):
    with scripted_http(lambda *_: (status, answer)) as url, pytest.raises(EndpointError, match=told):
        endpoint_of(url).post("/v1/completions", {})


def test_a_stream_that_fails_in_its_middle_is_an_error():
    chunks = [{"choices": [{"text": "one"}]}, {"error": {"message": "the engine died"}}]
    with scripted_http(lambda *_: (200, chunks)) as url, pytest.raises(EndpointError, match="the engine died"):
        endpoint_of(url).stream("/v1/completions", {})
    with scripted_http(lambda *_: (200, [])) as url, pytest.raises(EndpointError, match="without a token"):
        endpoint_of(url).stream("/v1/completions", {})


def test_nobody_there_is_one_line():
    with pytest.raises(EndpointError, match=r"cannot reach .* Is the server running there\?"):
        endpoint_of(f"http://127.0.0.1:{free_port()}").models()


def test_a_list_of_models_must_name_one():
    with scripted_http(lambda *_: (200, {"data": []})) as url, pytest.raises(EndpointError, match="names no model"):
        endpoint_of(url).models()


def test_messages_are_found_in_every_shape_of_error():
    assert message_in('{"error": {"message": "a"}}') == "a"
    assert message_in('{"error": "b"}') == "b"
    assert message_in('{"detail": "c"}') == "c"
    assert message_in("d") == "d"
    assert message_in("") == "(nothing)"
