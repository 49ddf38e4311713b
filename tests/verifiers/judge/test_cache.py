"""Replies kept on disk: by content, by several clients at once, and damaged."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.judge import JudgeClient
from pivotrl_jax.verifiers.judge.transport import Failure

CHAT = [{"role": "user", "content": "Are ls and dir equal?" + " " * 1000}]


def chat(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(number)}]


def test_labelled_replies_are_cached_by_content(server, client, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    server.script = [server.says("[[A!=B]]", usage)]
    for _ in range(2):
        assert client(cache=str(tmp_path)).ask(CHAT) is False
    assert len(server.requests) == 1
    again = client(cache=str(tmp_path))
    again.ask(CHAT)
    stats = again.stats()
    assert (stats.questions, stats.cached, stats.requests, stats.prompt_tokens) == (1, 1, 0, 0)
    for change in ({"model": "judge-2"}, {"temperature": 1.0}, {"max_tokens": 5}):
        client(cache=str(tmp_path), **change).ask(CHAT)
    client(cache=str(tmp_path)).ask(chat(1))
    assert len(server.requests) == 5


def test_a_reply_without_a_label_is_not_cached(server, client, tmp_path: Path) -> None:
    server.script = [server.says("hm"), server.says("[[A=B]]")]
    asked = client(cache=str(tmp_path))
    with pytest.raises(Failure, match="no_label"):
        asked.ask(CHAT)
    assert list(tmp_path.rglob("*.*")) == []
    assert asked.ask(CHAT) is True


@pytest.mark.parametrize(
    "damage", [b"", b'{"reply": "[[A', b'{"reply": 1}', b"[]", b'{"reply": "?"}', b"[" * 10**5]
)
def test_damaged_cache_files_are_asked_for_again(server, client, tmp_path, damage: bytes) -> None:
    client(cache=str(tmp_path)).ask(CHAT)
    (file,) = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert client(cache=str(tmp_path)).ask(CHAT) is True
    assert len(server.requests) == 2
    assert file.read_bytes() == whole


def test_clients_share_a_cache_while_they_write_it(server, client, tmp_path: Path) -> None:
    clients = [client(cache=str(tmp_path)) for _ in range(4)]
    start = threading.Barrier(4)

    def ask_all(asked: JudgeClient) -> list[bool]:
        start.wait()
        return [asked.ask(chat(n)) for n in range(20)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask_all, clients)) == [[True] * 20] * 4
    assert len(list(tmp_path.rglob("*.json"))) == 20
    assert all(json.loads(file.read_bytes()) for file in tmp_path.rglob("*.json"))
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_full_disk_costs_the_cache_not_the_verdict(server, client, tmp_path, monkeypatch) -> None:
    asked = client(cache=str(tmp_path))

    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert asked.ask(CHAT) is True
    assert list(tmp_path.rglob("*.*")) == []


def test_a_cache_that_cannot_be_written_is_refused(client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another directory"):
        client(cache=str(tmp_path / "file"))
