"""The response parser, byte by byte."""

from __future__ import annotations

import json

import pytest

from paceline.bench.client import Timeline, record
from paceline.bench.sse import HttpError, ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_arrive(size: int) -> None:
    stream = chunked(
        b'data: {"a": 1}\n\nda', b"ta: two\r\n\r\n", b": comment\n\n", b"data: x\ndata: y\n\n", b"data: [DONE]\n\n"
    )
    parser = ResponseParser()
    payloads = []
    for start in range(0, len(stream), size):
        payloads += parser.feed(stream[start : start + size])
    assert payloads == [b'{"a": 1}', b"two", b"x\ny", b"[DONE]"]
    assert parser.finished


def test_events_come_out_before_the_response_ends() -> None:
    parser = ResponseParser()
    assert parser.feed(chunked(b"data: 1\n\n")[:-5]) == [b"1"]
    assert not parser.finished


def test_stream_without_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    assert parser.feed(HEAD + b"\r\ndata: 1\n\ndata: 2\n") == [b"1"]
    assert parser.close() == []
    assert parser.finished


def test_plain_body_is_one_payload() -> None:
    parser = ResponseParser()
    payloads = parser.feed(b'HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n{"error"')
    assert payloads == []
    assert parser.feed(b"}") == [b'{"error"}']
    assert parser.status == 404


def test_cut_response_is_an_error() -> None:
    parser = ResponseParser()
    parser.feed(chunked(b"data: 1\n\n")[:-3])
    with pytest.raises(HttpError, match="in the middle"):
        parser.close()
    with pytest.raises(HttpError, match="before the response"):
        ResponseParser().close()


@pytest.mark.parametrize("junk", [b"SSH-2.0-OpenSSH\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(HttpError):
        ResponseParser().feed(junk)


def event(text: str) -> bytes:
    return json.dumps({"choices": [{"text": text}]}).encode()


def test_time_to_first_token_is_that_of_the_first_text() -> None:
    timeline = Timeline(sent=1.0)
    for now, text in ((2.0, ""), (3.0, "a"), (4.0, ""), (5.0, "b")):
        record(timeline, event(text), now)
    assert timeline.arrivals == [3.0, 4.0, 5.0]
    assert timeline.ttft == 2.0


def test_answer_of_tokens_without_text_still_has_times() -> None:
    timeline = Timeline(sent=1.0)
    record(timeline, event(""), 2.0)
    record(timeline, event(""), 3.0)
    assert timeline.arrivals == [2.0, 3.0]


def test_usage_counts_tokens_and_errors_are_raised() -> None:
    timeline = Timeline(sent=1.0)
    record(timeline, b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}', 2.0)
    record(timeline, b"[DONE]", 2.0)
    assert (timeline.prompt_tokens, timeline.tokens, timeline.arrivals) == (7, 9, [])
    with pytest.raises(HttpError, match="engine died"):
        record(timeline, b'{"error": {"message": "engine died"}}', 3.0)
