"""One HTTP request that ends in bounded time with a reply of bounded size, or a named failure."""

import contextlib
import dataclasses
import http.client
import json
import math
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_PASSING = frozenset({408, 429})  # beside all from 500 on
_EXCERPT = 200  # characters of a refusal that are repeated in its failure


@dataclasses.dataclass(frozen=True)
class Limits:
    """Time-outs in seconds (`read` between two pieces of a reply), and bytes of a reply."""

    connect: float
    read: float
    size: int


class Failure(Exception):
    """No usable reply: a `reason` to count by, and whether it may pass if asked again.

    `wait` is the least number of seconds before that.
    """

    def __init__(
        self, reason: str, detail: str = "", *, passing: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.passing, self.wait = reason, passing, wait


def post(
    url: urllib.parse.SplitResult,
    headers: Mapping[str, str],
    body: bytes,
    limits: Limits,
    deadline: float,
) -> Any:
    """The decoded JSON reply to one request; raises Failure.

    `deadline` is a `time.monotonic()`. Reasons are timeout, connection, too_large, http_<status>
    and bad_reply. Nothing is redirected, so that no header reaches another server.
    """
    try:
        status, retry_after, data = _exchange(url, headers, body, limits, deadline)
    except (OSError, http.client.HTTPException) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() >= deadline
        reason = "timeout" if late else "connection"
        raise Failure(reason, type(error).__name__, passing=True) from error
    if status != 200:
        passing = status in _PASSING or status >= 500
        detail = data[:_EXCERPT].decode("utf-8", "replace")
        raise Failure(f"http_{status}", detail, passing=passing, wait=wait_seconds(retry_after))
    if len(data) > limits.size:
        raise Failure("too_large", f"more than {limits.size} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Failure("bad_reply", "not JSON") from error


def _exchange(
    url: urllib.parse.SplitResult,
    headers: Mapping[str, str],
    body: bytes,
    limits: Limits,
    deadline: float,
) -> tuple[int, str | None, bytes]:
    """(status, Retry-After, the body's first `limits.size` + 1 bytes)."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=min(limits.connect, remaining))
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(limits.read)
        with _shut_at(deadline, connection.sock):
            connection.request("POST", url.path, body, dict(headers))
            with connection.getresponse() as response:
                data = response.read(limits.size + 1)
                # A reply without a length ends where the connection does, also when that was cut.
                if time.monotonic() >= deadline:
                    raise TimeoutError
                if len(data) <= limits.size and response.length:
                    raise http.client.IncompleteRead(data, response.length)
                return response.status, response.getheader("Retry-After"), data


@contextlib.contextmanager
def _shut_at(deadline: float, connected: socket.socket) -> Iterator[None]:
    """Shuts a socket down at the deadline: its own time-out starts anew with every byte."""

    def shut() -> None:
        # The plain method, also for TLS, where the subclass's is not meant for another thread.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def wait_seconds(retry_after: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 if unreadable."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        seconds = _until(retry_after)
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()
