"""A small HTTP server whose answers are a function of the test's choice, in a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: From (method, path, body) to (status, answer). A list of objects is sent as an event stream, a text as it is.
Answering = Callable[[str, str, dict[str, Any]], tuple[int, Any]]


@contextmanager
def scripted_http(answering: Answering, headers: Callable[[Any], None] = lambda _: None):
    """The URL of a server on a free port, for as long as the context lasts. ``headers`` gets those of each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            headers(self.headers)
            status, answer = answering(self.command, self.path, body)
            if isinstance(answer, list):
                events = "".join(f"data: {json.dumps(event)}\n\n" for event in answer)
                self._send(status, "text/event-stream", f"{events}data: [DONE]\n\n")
            elif isinstance(answer, str):
                self._send(status, "text/plain", answer)
            else:
                self._send(status, "application/json", json.dumps(answer))

        def _send(self, status: int, kind: str, text: str) -> None:
            raw = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
