"""A small HTTP/1.1 response and server-sent-events parser: bytes in, events out, as they arrive.

A client library costs more CPU a token than a fast engine does; on a machine of two cores that would be measured too.
"""

from __future__ import annotations


class HttpError(Exception):
    """The server answered with something other than status 200, or not with HTTP at all."""


class ResponseParser:
    """Feeds on the bytes of one response; gives the ``data:`` payloads of its event stream.

    A response that is not an event stream is collected whole: its body is the single payload. Handles chunked bodies,
    ``Content-Length`` and bodies that end with the connection.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.finished = False
        self._raw = bytearray()
        self._body = bytearray()
        self._chunk_left = 0
        self._length_left: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Adds received bytes; gives the payloads completed by them. Raises ``HttpError`` on malformed framing."""
        self._raw += data
        if self.status is None and not self._read_head():
            return []
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._read_chunks()
        else:
            self._read_plain()
        return self._take_payloads()

    def close(self) -> list[bytes]:
        """The connection ended: gives what was left. Raises ``HttpError`` when the response was cut."""
        if self.status is None:
            raise HttpError("connection closed before the response")
        if not self.finished:
            if "transfer-encoding" in self.headers or self._length_left:
                raise HttpError("connection closed in the middle of the response")
            self.finished = True
        return self._take_payloads()

    def _read_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._raw[:end].decode("latin-1").split("\r\n")
        del self._raw[: end + 4]
        parts = lines[0].split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/") or not parts[1].isdigit():
            raise HttpError(f"not an HTTP response: {lines[0][:80]!r}")
        self.status = int(parts[1])
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if "content-length" in self.headers:
            self._length_left = int(self.headers["content-length"])
            self.finished = self._length_left == 0
        return True

    def _read_chunks(self) -> None:
        while True:
            if self._chunk_left > 2:  # payload still missing; the last two bytes are the chunk's CRLF
                piece = self._raw[: self._chunk_left - 2]
                self._body += piece
                del self._raw[: len(piece)]
                self._chunk_left -= len(piece)
                if self._chunk_left > 2:
                    return
            if self._chunk_left:
                if len(self._raw) < self._chunk_left:
                    return
                del self._raw[: self._chunk_left]
                self._chunk_left = 0
            end = self._raw.find(b"\r\n")
            if end < 0 or self.finished:
                return
            try:
                size = int(self._raw[:end].split(b";")[0], 16)
            except ValueError:
                raise HttpError(f"bad chunk size {bytes(self._raw[:end])[:20]!r}") from None
            del self._raw[: end + 2]
            if size == 0:
                self.finished = True
                return
            self._chunk_left = size + 2

    def _read_plain(self) -> None:
        self._body += self._raw
        if self._length_left is not None:
            self._length_left -= len(self._raw)
            self.finished = self._length_left <= 0
        self._raw.clear()

    def _take_payloads(self) -> list[bytes]:
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            if not self.finished or not self._body:
                return []
            body = bytes(self._body)
            self._body.clear()
            return [body]
        payloads: list[bytes] = []
        while True:
            event, length = self._next_event()
            if length == 0:
                return payloads
            del self._body[:length]
            if event:
                payloads.append(event)

    def _next_event(self) -> tuple[bytes, int]:
        """Payload of the first complete event of the body, and its length with the blank line (0: none yet)."""
        ends = [(self._body.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n")]
        found = [(at, size) for at, size in ends if at >= 0]
        if not found:
            return b"", 0
        at, size = min(found)
        lines = bytes(self._body[:at]).split(b"\n")
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        return b"\n".join(data), at + size
