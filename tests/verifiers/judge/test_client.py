"""The judge's client against a server that answers, stalls, fails and lies."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.judge import EndpointSettings, JudgeClient
from pivotrl_jax.verifiers.judge.transport import Failure, wait_seconds

CHAT = [{"role": "user", "content": "Are ls and dir equal?"}]


@pytest.mark.parametrize(("text", "label"), [("so [[A=B]]", True), ("so [[A!=B]]", False)])
def test_the_label_of_the_reply_is_the_answer(server, client, text: str, label: bool) -> None:
    server.script = [server.says(text)]
    assert client(temperature=0.5, max_tokens=77).ask(CHAT) is label
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "judge-1",
            "messages": CHAT,
            "temperature": 0.5,
            "max_tokens": 77,
        }
    ]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_asked_again(server, client, status: int) -> None:
    server.script = [server.sends(b"{}", status), server.says("[[A!=B]]")]
    asked = client()
    assert asked.ask(CHAT) is False
    stats = asked.stats()
    assert (stats.requests, stats.retried, stats.failed) == (2, {f"http_{status}": 1}, {})


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_refusals_are_not_asked_again(server, client, status: int) -> None:
    server.script = [server.sends(b"context too long", status, Location="http://127.0.0.1:1/")]
    asked = client()
    with pytest.raises(Failure, match=f"http_{status}: context too long"):
        asked.ask(CHAT)
    stats = asked.stats()
    assert (stats.requests, stats.retried, stats.failed) == (1, {}, {f"http_{status}": 1})


def test_a_reset_and_a_truncated_body_are_asked_again(server, client) -> None:
    server.script = [server.resets, server.sends(b'{"choices"', length=500), server.says("[[A=B]]")]
    asked = client()
    assert asked.ask(CHAT) is True
    assert asked.stats().retried == {"connection": 2}


def test_attempts_are_bounded_and_wait_longer_and_longer(server, client, monkeypatch) -> None:
    server.script = [server.sends(b"", 503)]
    waits: list[float] = []
    asked = client(attempts=4, backoff_seconds=0.08)
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(Failure, match="http_503"):
        asked.ask(CHAT)
    assert asked.stats().requests == 4
    assert asked.stats().failed == {"http_503": 1}
    assert [0.5 <= wait / (0.08 * 2**n) <= 1 for n, wait in enumerate(waits)] == [True] * 3


def test_retry_after_is_waited_for(server, client) -> None:
    server.script = [server.sends(b"", 429, Retry_After="1"), server.says("[[A=B]]")]
    start = time.monotonic()
    assert client().ask(CHAT) is True
    assert time.monotonic() - start >= 1


def test_a_retry_after_beyond_the_deadline_gives_up_at_once(server, client) -> None:
    server.script = [server.sends(b"", 429, Retry_After="90")]
    with pytest.raises(Failure, match="http_429"):
        client().ask(CHAT)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("7", 7), ("0.5", 0.5), ("-3", 0), ("nan", 0), ("inf", 0), ("soon", 0),
     ("9" * 5000, 0), ("Wed, 99 Nov 2026", 0), ("Sun, 06 Nov 1994 08:49:37 GMT", 0)],
)  # fmt: skip
def test_retry_after_is_read(header: str | None, seconds: float) -> None:
    assert wait_seconds(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert 0 < wait_seconds(format_datetime(then, usegmt=True)) <= 30


def test_a_stalling_server_times_out(server, client) -> None:
    server.script = [server.says("[[A=B]]", seconds=5)]
    asked = client(read_seconds=0.1, attempts=2)
    with pytest.raises(Failure, match="timeout"):
        asked.ask(CHAT)
    assert (asked.stats().retried, asked.stats().failed) == ({"timeout": 1}, {"timeout": 1})


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b'{"choices": [{"message": {"content": "[[A=B]]"}}]}',
    ],
    ids=["status", "header", "body", "body without length"],
)
def test_a_dripping_server_ends_at_the_deadline(server, client, head: bytes) -> None:
    server.script = [server.drips(head)]
    with pytest.raises(Failure, match="timeout"):
        client(deadline_seconds=0.4).ask(CHAT)
    assert 0 < server.dripped < 1000


@pytest.mark.parametrize("limit", ["connect_seconds", "deadline_seconds"])
def test_a_server_that_accepts_nobody_times_out(client, limit: str) -> None:
    with contextlib.ExitStack() as opened, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):  # until its queue is full
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        asked = client(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", **{limit: 0.2})
        start = time.monotonic()
        with pytest.raises(Failure, match="timeout"):
            asked.ask(CHAT)
        assert 0.15 < time.monotonic() - start < 30


def test_a_server_that_is_not_there_is_a_connection_failure(client) -> None:
    with pytest.raises(Failure, match="connection: ConnectionRefusedError"):
        client(url="http://127.0.0.1:1/v1").ask(CHAT)


LIES = {
    "not json": (b"<html>[[A=B]]</html>", "bad_reply"),
    "not utf-8": (b"\xff\xfe[[A=B]]", "bad_reply"),
    "deep": (b"[" * 9000, "bad_reply"),
    "huge number": (b"1" * 9000, "bad_reply"),
    "list": (b'["[[A=B]]"]', "bad_reply"),
    "null": (b"null", "bad_reply"),
    "no choices": (b'{"choices": []}', "bad_reply"),
    "no text": (b'{"choices": [{"message": {"content": null}}]}', "bad_reply"),
    "list as text": (b'{"choices": [{"message": {"content": ["[[A=B]]"]}}]}', "bad_reply"),
    "no label": (b'{"choices": [{"message": {"content": "They are equal."}}]}', "no_label"),
    "empty": (b"", "bad_reply"),
}


@pytest.mark.parametrize(("body", "reason"), LIES.values(), ids=LIES)
def test_lies_are_failures_and_not_asked_again(server, client, body: bytes, reason: str) -> None:
    server.script = [server.sends(body, kind="text/html")]
    asked = client()
    with pytest.raises(Failure, match=reason):
        asked.ask(CHAT)
    assert (asked.stats().requests, asked.stats().failed) == (1, {reason: 1})


@pytest.mark.parametrize("endless", [False, True])
def test_megabytes_are_not_read(server, client, endless: bool) -> None:
    long = server.says("[[A=B]]" + "x" * 5_000_000)
    server.script = [server.floods if endless else long]
    with pytest.raises(Failure, match="too_large: more than 10000 bytes"):
        client().ask(CHAT)


def test_the_content_type_does_not_matter(server, client) -> None:
    body = b'{"choices": [{"message": {"content": "[[A=B]]"}}]}'
    server.script = [server.sends(body, kind="text/plain")]
    assert client().ask(CHAT) is True


def chat(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(number)}]


def test_concurrency_is_bounded_over_all_threads(server, client) -> None:
    server.script = [server.waits_for(3, "[[A=B]]")] * 3 + [server.says("[[A=B]]", seconds=0.03)]
    asked = client(concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(asked.ask, map(chat, range(36))))
    assert server.most == 3
    assert asked.stats().questions == 36


def test_waiting_for_a_slot_ends_at_the_deadline(server, client) -> None:
    server.script = [server.waits_for(2, "[[A=B]]")]
    patient, hurried = client(concurrency=1), client(concurrency=1, deadline_seconds=0.2)
    hurried._slots = patient._slots
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(patient.ask, chat(0))
        while not server.requests:
            time.sleep(0.005)
        with pytest.raises(Failure, match="timeout: no free slot"):
            hurried.ask(chat(1))
        server.most = 2
        assert asking.result() is True


def test_tokens_and_cost_add_up(server, client) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 20}
    lies = ({"prompt_tokens": -5, "completion_tokens": "9"}, [3], {"prompt_tokens": 10**400})
    server.script = [server.says("[[A=B]]", each) for each in (usage, *lies, usage)]
    asked = client(prompt_price=2e-6, completion_price=1e-5)
    for _ in range(5):
        asked.ask(CHAT)
    stats = asked.stats()
    assert (stats.prompt_tokens, stats.completion_tokens) == (2000, 40)
    assert stats.cost == pytest.approx(2000 * 2e-6 + 40 * 1e-5)


def test_tokens_of_a_useless_reply_are_paid_for(server, client) -> None:
    server.script = [server.says("hm", {"prompt_tokens": 7, "completion_tokens": 1})]
    asked = client()
    with pytest.raises(Failure):
        asked.ask(CHAT)
    assert (asked.stats().prompt_tokens, asked.stats().completion_tokens) == (7, 1)


def test_the_key_comes_from_the_environment(server, client, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret\n")
    asked = client(key_variable="JUDGE_KEY")
    asked.ask(CHAT)
    client().ask(CHAT)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "Authorization" not in server.headers[1]
    assert "s3cret" not in repr(asked) + repr(asked.settings) + repr(asked.stats())


@pytest.mark.parametrize("value", [None, "", "s3c\nret", "s3crét"])
def test_an_unusable_key_is_refused_and_not_shown(client, monkeypatch, value: str | None) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(UserError, match=r"'JUDGE_KEY'.*export") as caught:
        client(key_variable="JUDGE_KEY")
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http:///v1", "", "http://h:99999/v1"]
)
def test_an_unusable_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="http://localhost:8000/v1"):
        JudgeClient(EndpointSettings(url=url, model="m"))


@pytest.mark.parametrize("field", ["concurrency", "attempts", "deadline_seconds", "max_tokens"])
def test_settings_that_ask_nothing_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=field):
        EndpointSettings(url="http://h/v1", model="m", **{field: 0})
