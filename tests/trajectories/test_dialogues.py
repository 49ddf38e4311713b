"""tau2-bench and API-Bank on carried dialogues, and what their files share."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import EVERY_TURN, Message, ToolCall, candidates, read
from pivotrl_jax.trajectories.contexts import resolved
from pivotrl_jax.trajectories.dialogues import api_bank, simulations, tau2
from pivotrl_jax.trajectories.formats import detect
from pivotrl_jax.trajectories.parsing import BadRow

Rows = Callable[[str], list[dict[str, Any]]]
TAU2 = "tool_use/tau2_success"


def test_tau2_messages_calls_and_task(carried: Rows) -> None:
    row = next(row for row in carried(TAU2) if row["environment"] == "retail")
    found = tau2(row, "a:1")
    calls = [call for message in found.messages for call in message.calls]
    stated = [call for entry in row["messages"] for call in entry.get("tool_calls") or []]
    assert calls == [ToolCall(each["name"], each["arguments"]) for each in stated]
    assert calls
    assert found.task_id == f"retail/{row['task_id']}"
    assert found.facts == {"expected_actions": row["expected_actions"]}
    assert len(found.messages) == len(row["messages"])


def test_tau2_drops_what_the_user_does_with_its_own_tools(carried: Rows) -> None:
    rows = [row for row in carried(TAU2) if row["environment"] == "telecom"]
    entries = [entry for row in rows for entry in row["messages"]]
    by_user = [entry for entry in entries if entry.get("requestor") == "user"]
    silent = [e for e in entries if e["role"] == "user" and e.get("tool_calls")]
    assert len(by_user) == len([call for entry in silent for call in entry["tool_calls"]]) == 18
    kept = [message for row in rows for message in tau2(row, "a:1").messages]
    assert len(kept) == len(entries) - len(by_user) - len(silent)
    made = {call.name for message in kept for call in message.calls}
    assert "get_customer_by_phone" in made
    assert not made & {call["name"] for entry in silent for call in entry["tool_calls"]}


def test_greeting_is_history_only(carried: Rows) -> None:
    found = tau2({**carried(TAU2)[0], "system_prompt": "Be kind."}, "a:1")
    assert found.messages[:2] == (
        Message("system", "Be kind."),
        Message("assistant", "Hi! How can I help you today?"),
    )
    kept, skipped = candidates(found, EVERY_TURN, "train")
    assert skipped == {"greeting": 1}
    assert min(candidate.message for candidate in kept) > 2


def test_a_first_call_is_no_greeting() -> None:
    call = {"id": "1", "name": "get_user", "arguments": {}, "requestor": "assistant"}
    entries = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "id": "1", "content": "no", "requestor": "assistant", "error": True},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
    ]
    found = tau2({"messages": entries, "ticket": "Line is down."}, "a:1")
    assert found.messages[0] == Message("system", "\n<ticket>\nLine is down.\n</ticket>")
    assert found.messages[2].failed
    assert len(candidates(found, EVERY_TURN, "train")[0]) == 2


def test_result_file_is_one_trajectory_a_run(carried: Rows, tmp_path: Path) -> None:
    runs = [
        {"id": f"run-{i}", "task_id": "7", "trial": i, "messages": row["messages"],
         "reward_info": {"reward": 1.0 - i}}
        for i, row in enumerate(carried(TAU2)[:2])
    ]  # fmt: skip
    environment = {"domain_name": "airline", "policy": "No refunds.", "tool_defs": None}
    document = {"info": {"environment_info": environment}, "tasks": [], "simulations": runs}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    trajectories, audit = read(path)
    assert (audit.read, audit.formats) == (2, {"tau2": 2})
    assert [(t.id, t.task_id, t.reward) for t in trajectories] == [
        ("run-0", "airline/7", 1.0),
        ("run-1", "airline/7", 0.0),
    ]
    assert trajectories[0].messages[0].content == "<policy>\nNo refunds.\n</policy>"


@pytest.mark.parametrize(
    ("reason", "document"),
    [
        ("empty_messages", {"simulations": []}),
        ("malformed_message", {"simulations": ["run"]}),
        ("no_environment_info", {"simulations": [{}]}),
    ],
)
def test_malformed_result_files(reason: str, document: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=reason):
        simulations(document)


def test_contexts_stand_beside_the_rows(carried: Rows, tmp_path: Path) -> None:
    rows = carried(TAU2)[:1]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    without, _ = read(tmp_path)
    context = {"system_prompt": "Be kind.", "tools": [{"name": "get_user"}]}
    (tmp_path / "tau2_contexts.json").write_text(json.dumps({rows[0]["context_key"]: context}))
    (found,), audit = read(tmp_path)
    assert (without[0].tools, audit.lines) == ((), 1)
    assert found.messages == (Message("system", "Be kind."), *without[0].messages)
    assert found.tools == ({"name": "get_user"},)


def test_contexts_are_named_by_apis_and_classes_and_rows_come_first() -> None:
    contexts = {"A": {"tools": [{"name": "a"}]}, "B": {"tools": [{"name": "b"}]}, "C": 3}
    assert resolved({"apis": ["A", "B", "C", "D"]}, contexts)["tools"] == [
        {"name": "a"},
        {"name": "b"},
    ]
    assert resolved({"involved_classes": ["B"]}, contexts)["tools"] == [{"name": "b"}]
    assert resolved({"apis": ["A"], "tools": []}, contexts)["tools"] == []
    assert "tools" not in resolved({"context_key": ["A"], "apis": "B"} | {"context_key": 5}, {})


@pytest.mark.parametrize("data", [b"{", b"[1, 2]", b"\x1f\x8b broken"])
def test_unreadable_contexts_are_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    path = tmp_path / "contexts.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"contexts\.json holds no contexts"):
        read(tmp_path)


def test_api_bank_joins_text_to_the_call_after_it(carried: Rows) -> None:
    row = carried("tool_use/apibank_dialogues")[0]
    events = row["events"]
    assert [event["role"] for event in events[4:9]] == ["User", "AI", "API", "AI", "API"]
    found = api_bank(row, "a:1").messages
    made = ToolCall("GetUserToken", {"username": "JaneSmith", "password": "password"})
    assert found[5] == Message("assistant", "Thank you.", (made,))
    assert found[6] == Message("tool", '{"token": "o8i7u6y5t4r3e2w1q0"}')
    assert found[7].content == events[7]["text"]
    assert found[7].calls[0].name == events[8]["api_name"]


def test_every_api_call_has_its_result_and_tool(carried: Rows) -> None:
    path = Path(__file__).parents[2] / "experiments/data/tool_use/apibank_dialogues.jsonl.gz"
    trajectories, _ = read(path)
    calls = [call for each in trajectories for message in each.messages for call in message.calls]
    results = [m for each in trajectories for m in each.messages if m.role == "tool"]
    assert len(calls) == len(results) == 335
    names = {tool["function"]["name"] for each in trajectories for tool in each.tools}
    assert {call.name for call in calls} <= names


def test_an_api_that_raised_is_failed() -> None:
    result = {"output": None, "exception": "The token is invalid."}
    api = {"role": "API", "api_name": "AddAlarm", "param_dict": {}, "result": result}
    found = api_bank({"events": [{"role": "User", "text": "Wake me."}, api]}, "a:1")
    assert found.messages[2] == Message("tool", "The token is invalid.", failed=True)


EVENT = {"role": "API", "api_name": "AddAlarm", "param_dict": {}, "result": {"output": 1}}


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("unknown_role", {"role": "Critic", "text": "No."}),
        ("unknown_role", {"role": ["AI"], "text": "No."}),
        ("malformed_tool_calls", {**EVENT, "api_name": None}),
        ("malformed_result", {**EVENT, "result": "done"}),
        ("content_not_text", {"role": "AI", "text": 5}),
    ],
)
def test_malformed_events(reason: str, event: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=reason):
        api_bank({"events": [event]}, "a:1")


TURN = {"role": "assistant", "content": "Hi.", "tool_calls": None}


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("unknown_role", {**TURN, "role": "narrator"}),
        ("content_not_text", {**TURN, "content": 5}),
        ("malformed_tool_calls", {**TURN, "tool_calls": ["get_user"]}),
        ("malformed_tool_calls", {**TURN, "tool_calls": [{"name": ""}]}),
    ],
)
def test_malformed_tau2_messages(reason: str, entry: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=reason):
        tau2({"messages": [entry]}, "a:1")


def test_formats_are_told_apart(carried: Rows) -> None:
    assert {detect(row) for row in carried(TAU2)} == {"tau2"}
    plain = [{k: v for k, v in row.items() if k != "context_key"} for row in carried(TAU2)]
    assert {detect(row) for row in plain} == {"tau2"}
    assert {detect(row) for row in carried("tool_use/apibank_dialogues")} == {"api_bank"}
    assert {detect(row) for row in carried("tool_use/tau2_sft_v1_small")} == {"openai_chat"}


def test_compressed_contexts(tmp_path: Path) -> None:
    row = {"context_key": "k", "messages": [{"role": "user", "content": "Hi."}, TURN]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    contexts = gzip.compress(json.dumps({"k": {"system_prompt": "Be kind."}}).encode())
    (tmp_path / "contexts.json.gz").write_bytes(contexts)
    assert read(tmp_path)[0][0].messages[0] == Message("system", "Be kind.")
