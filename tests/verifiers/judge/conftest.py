"""A real HTTP server that answers, stalls, fails and lies as a test tells it to."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pivotrl_jax.verifiers.judge import EndpointSettings, JudgeClient

Answer = Callable[[BaseHTTPRequestHandler, dict], None]


class Server:
    """Answers the n-th request by `script[n]`, and all later ones by the last of `script`.

    `requests` and `headers` hold what came in, `most` how many requests waited for a whole answer
    at once and `dripped` how many bytes were sent one at a time. Tests go by these and not by the
    clock.
    """

    def __init__(self) -> None:
        self.script: list[Answer] = [self.says("[[A=B]]")]
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.most = self.dripped = self._open = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            answer = self.script[min(len(self.requests), len(self.script) - 1)]
            self.requests.append(request | {"path": handler.path})
            self.headers.append(dict(handler.headers))
            self._open += 1
            self.most = max(self.most, self._open)
        with contextlib.suppress(OSError):
            answer(handler, request)

    def _close(self) -> None:
        with self._lock:
            self._open -= 1

    def says(self, text: Any, usage: Any = None, seconds: float = 0.0) -> Answer:
        body = {"choices": [{"message": {"content": text}}], "usage": usage}
        return self.sends(json.dumps(body).encode(), seconds=seconds)

    def waits_for(self, most: int, text: str) -> Answer:
        """An answer that comes once `most` requests have been open at a time."""

        def answer(handler: BaseHTTPRequestHandler, request: dict) -> None:
            while self.most < most and not self._stopped.wait(0.005):
                pass
            self.says(text)(handler, request)

        return answer

    def asks(self, label: Callable[[str], str]) -> Answer:
        """The label that a function finds in the question."""

        def answer(handler: BaseHTTPRequestHandler, request: dict) -> None:
            self.says(label(request["messages"][-1]["content"]))(handler, request)

        return answer

    def sends(
        self, body: bytes, status: int = 200, kind: str = "application/json", length: int = -1,
        seconds: float = 0.0, **headers: str,
    ) -> Answer:  # fmt: skip
        def answer(handler: BaseHTTPRequestHandler, request: dict) -> None:
            self._stopped.wait(seconds)
            handler.send_response(status)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(body) if length < 0 else length))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            # The client may send its next request before this thread goes on.
            self._close()
            handler.wfile.write(body)

        return answer

    def drips(self, head: bytes, seconds: float = 5.0) -> Answer:
        """`head`, then a byte every few milliseconds, so that no read ever times out."""

        def answer(handler: BaseHTTPRequestHandler, request: dict) -> None:
            handler.wfile.write(head)
            until = time.monotonic() + seconds
            while time.monotonic() < until and not self._stopped.wait(0.02):
                handler.wfile.write(b" ")
                self.dripped += 1

        return answer

    def floods(self, handler: BaseHTTPRequestHandler, request: dict) -> None:
        """A reply that does not end while anyone reads it."""
        handler.send_response(200)
        handler.end_headers()
        while not self._stopped.is_set():
            handler.wfile.write(b"x" * 65536)

    def resets(self, handler: BaseHTTPRequestHandler, request: dict) -> None:
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.rfile.close()
        handler.connection.close()


class _Http(ThreadingHTTPServer):
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    owner: Server

    def do_POST(self) -> None:
        self.owner.serve(self)

    def log_message(self, *args: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Callable[..., JudgeClient]:
    """A client of the server that is quick to ask again; keywords change its settings."""
    defaults = {
        "url": server.url,
        "model": "judge-1",
        "attempts": 3,
        "backoff_seconds": 0.01,
        "connect_seconds": 30.0,
        "read_seconds": 30.0,
        "deadline_seconds": 60.0,
        "max_reply_bytes": 10_000,
    }
    return lambda **changes: JudgeClient(EndpointSettings(**(defaults | changes)))
