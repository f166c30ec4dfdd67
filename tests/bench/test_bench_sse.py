"""The response parser, byte by byte."""

from __future__ import annotations

import pytest

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
