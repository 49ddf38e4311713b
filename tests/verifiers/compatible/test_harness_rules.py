"""multi_harness: the rule of each tool in each harness (section 2.4 of the observed semantics)."""

import json
from typing import Any

import pytest

from pivotrl_jax.verifiers.compatible.multi_harness import Options, score

MATCH, VALUE = "EXPECTED_TOOL_CALL", "ARGUMENT_VALUE_MISMATCH"
CMD, NO_CMD = "EXEC_COMMAND_CMD_SIMILARITY_BELOW_THRESHOLD", "EXEC_COMMAND_MISSING_CMD"
BASH, CODE = (
    "BASH_COMMAND_SIMILARITY_BELOW_THRESHOLD",
    "EXECUTE_PYTHON_CODE_SIMILARITY_BELOW_THRESHOLD",
)
RESULT, NO_PLAN = "RETURN_RESULT_SIMILARITY_BELOW_THRESHOLD", "UPDATE_PLAN_EMPTY_PLAN"
SEARCH, NO_QUERY = "WEB_SEARCH_QUERY_SIMILARITY_BELOW_THRESHOLD", "WEB_SEARCH_MISSING_QUERY"
PAGE, NO_PAGE = "FETCH_WEB_PAGE_URLS_DO_NOT_MATCH", "FETCH_WEB_PAGE_MISSING_URL"
REASON, NO_REASON = "FINISH_REASON_SIMILARITY_BELOW_THRESHOLD", "FINISH_MISSING_REASON"
PATHS, NO_PATHS = "FINISH_PATHS_DO_NOT_MATCH", "FINISH_MISSING_PATHS"
EDIT = {"filePath": "/a", "oldString": "x", "newString": "y", "replaceAll": True}
TODO = {"content": "test", "status": "pending", "priority": "high"}
DONE = {"reason": "All tests pass", "paths": ["/a", "/b"]}

# (harness and tool, case, gold's arguments, sampled arguments, reason)
RULES = [
    ("codex exec_command", "similar", {"cmd": "pytest -q tests"}, {"cmd": "pytest -q test"}, MATCH),
    ("codex exec_command", "below 0.9", {"cmd": "pwd"}, {"cmd": "pwc"}, CMD),
    ("codex exec_command", "newlines, trimmed", {"cmd": "a\nb"}, {"cmd": " a\r\nb\r"}, MATCH),
    ("codex exec_command", "empty on both", {"cmd": ""}, {"cmd": ""}, MATCH),
    ("codex update_plan", "other plan", {"plan": [1]}, {"plan": [2]}, MATCH),
    ("codex update_plan", "empty", {"plan": [1]}, {"plan": []}, NO_PLAN),
    ("codex update_plan", "blank", {"plan": [1]}, {"plan": " "}, NO_PLAN),
    ("codex update_plan", "missing", {"plan": [1]}, {}, NO_PLAN),
    ("codex update_plan", "0 is a value", {"plan": [1]}, {"plan": 0}, MATCH),
    (
        "opencode bash", "similar",
        {"command": "git status -s"},
        {"command": "git status"},
        BASH,
    ),
    ("opencode bash", "same", {"command": "git status"}, {"command": "git status\n"}, MATCH),
    ("opencode bash", "missing", {"command": "git status"}, {}, "BASH_MISSING_COMMAND"),
    (
        "opencode read", "other offset",
        {"filePath": "/a", "offset": 1}, {"filePath": "/a", "offset": 9}, MATCH,
    ),
    ("opencode read", "other file", {"filePath": "/a"}, {"filePath": "/b"}, VALUE),
    (
        "opencode write", "other content",
        {"filePath": "/a", "content": "x"}, {"filePath": "/a", "content": "y"}, MATCH,
    ),
    ("opencode write", "other file", {"filePath": "/a"}, {"filePath": "/A"}, VALUE),
    (
        "opencode edit", "strings not compared",
        EDIT, {**EDIT, "oldString": "p", "newString": "q"}, MATCH,
    ),
    ("opencode edit", "old is new", EDIT, {**EDIT, "newString": "x"}, VALUE),
    ("opencode edit", "both missing", EDIT, {"filePath": "/a", "replaceAll": True}, VALUE),
    ("opencode edit", "other file", EDIT, {**EDIT, "filePath": "/b"}, VALUE),
    ("opencode edit", "replaceAll", EDIT, {**EDIT, "replaceAll": False}, VALUE),
    ("opencode glob", "path missing", {"pattern": "*", "path": "/"}, {"pattern": "*"}, VALUE),
    ("opencode glob", "same", {"pattern": "*", "path": "/"}, {"pattern": "*", "path": "/"}, MATCH),
    (
        "opencode grep", "include",
        {"pattern": "x", "include": "*.py"}, {"pattern": "x", "include": "*.c"}, VALUE,
    ),
    ("opencode grep", "pattern", {"pattern": "x"}, {"pattern": "y"}, VALUE),
    (
        "opencode webfetch", "format",
        {"url": "u", "format": "text"}, {"url": "u", "format": "html"}, VALUE,
    ),
    ("opencode skill", "name", {"name": "a"}, {"name": "b"}, VALUE),
    (
        "opencode task", "other prompt",
        {"subagent_type": "g", "prompt": "x"}, {"subagent_type": "g", "prompt": "y"}, MATCH,
    ),
    ("opencode task", "other subagent", {"subagent_type": "g"}, {"subagent_type": "h"}, VALUE),
    (
        "opencode todowrite", "other text",
        {"todos": [TODO]}, {"todos": [{**TODO, "content": "x"}]}, MATCH,
    ),
    (
        "opencode todowrite", "status",
        {"todos": [TODO]}, {"todos": [{**TODO, "status": "done"}]}, VALUE,
    ),
    (
        "opencode todowrite", "priority",
        {"todos": [TODO]}, {"todos": [{"status": "pending"}]}, VALUE,
    ),
    ("opencode todowrite", "length", {"todos": [TODO]}, {"todos": [TODO, TODO]}, VALUE),
    ("opencode todowrite", "both empty", {"todos": []}, {"todos": []}, MATCH),
    ("opencode todowrite", "gold empty", {"todos": []}, {"todos": [TODO]}, VALUE),
    ("opencode todowrite", "no list", {"todos": [TODO]}, {"todos": "x"}, "TODOWRITE_EMPTY_TODOS"),
    (
        "agent006 execute_python", "not trimmed",
        {"code": "1"}, {"code": "1\n"}, CODE,
    ),
    ("agent006 execute_python", "same", {"code": "print(1)"}, {"code": "print(1)"}, MATCH),
    ("agent006 execute_python", "blank", {"code": " "}, {"code": " "}, VALUE),
    (
        "agent006 return_result", "key order",
        {"result": {"a": 1, "b": 2}}, {"result": {"b": 2, "a": 1}}, MATCH,
    ),
    (
        "agent006 return_result", "other",
        {"result": 1}, {"result": 2}, RESULT,
    ),
    ("agent006 return_result", "null and missing", {"result": None}, {}, MATCH),
    ("stirrup code_exec", "other command", {"cmd": "ls"}, {"cmd": "rm"}, CMD),
    ("stirrup code_exec", "missing", {"cmd": "ls"}, {}, NO_CMD),
    (
        "stirrup web_search", "lower-cased",
        {"query": "Eiffel Tower"}, {"query": " eiffel tower"}, MATCH,
    ),
    ("stirrup web_search", "other", {"query": "Eiffel"}, {"query": "Louvre"}, SEARCH),
    ("stirrup web_search", "empty", {"query": ""}, {"query": ""}, NO_QUERY),
    ("stirrup fetch_web_page", "case", {"url": "http://A.org"}, {"url": "HTTP://a.org"}, MATCH),
    ("stirrup fetch_web_page", "other", {"url": "http://a.org"}, {"url": "http://a.org/"}, PAGE),
    ("stirrup fetch_web_page", "missing", {"url": "u"}, {}, NO_PAGE),
    ("stirrup finish", "paths in any order", DONE, {**DONE, "paths": ["/b ", "/a"]}, MATCH),
    ("stirrup finish", "paths as text", DONE, {**DONE, "paths": '["/a", "/b"]'}, MATCH),
    ("stirrup finish", "other paths", DONE, {**DONE, "paths": ["/a"]}, PATHS),
    ("stirrup finish", "no paths", DONE, {**DONE, "paths": []}, NO_PATHS),
    ("stirrup finish", "reason in other case", DONE, {**DONE, "reason": "ALL TESTS PASS"}, MATCH),
    (
        "stirrup finish", "other reason",
        DONE, {**DONE, "reason": "I give up"}, REASON,
    ),
    ("stirrup finish", "no reason", DONE, {"paths": DONE["paths"]}, NO_REASON),
]  # fmt: skip


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}


def verdict(tool: str, gold: Any, sampled: Any) -> Any:
    """With a schema that asks for nothing but, to `finish`, an array of paths."""
    harness, name = tool.split()
    parameters = {"properties": {"paths": {"type": "array"}}} if name == "finish" else {}
    row = {
        "expected_action": call(name, gold),
        "harness": harness,
        "declared_tools": [{"name": name, "parameters": parameters}],
    }
    return score(row, [call(name, sampled)], Options())


@pytest.mark.parametrize(
    ("tool", "gold", "sampled", "reason"),
    [(tool, *case) for tool, _, *case in RULES],
    ids=[f"2.4 {tool}: {case}" for tool, case, *_ in RULES],
)
def test_rules(tool: str, gold: Any, sampled: Any, reason: str) -> None:
    result = verdict(tool, gold, sampled)
    assert (result.reward, result.reason) == (float(reason == MATCH), reason)


def test_the_ratio_takes_the_gold_first_but_not_of_reasons() -> None:
    """2.6: ("tide", "diet") has ratio 0.25 and ("diet", "tide") 0.5."""
    commands = verdict("stirrup code_exec", {"cmd": "tide"}, {"cmd": "diet"})
    reasons = verdict("stirrup finish", {**DONE, "reason": "tide"}, {**DONE, "reason": "diet"})
    assert commands.criteria["similarity"] == 0.25
    assert reasons.criteria["similarity"] == 0.5
