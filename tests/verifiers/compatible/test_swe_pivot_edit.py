"""swe_pivot on edits and views: each case named after the row it comes from."""

import json
from typing import Any

import pytest

from pivotrl_jax.verifiers.compatible.swe_pivot import Options, score

TARGET, SIMILARITY, ERROR = "target_mismatch", "similarity_below_threshold", "unknown_error"


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def call(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text}


def edit(old: str, new: str, path: str = "/w/proj/foo.py", **more: Any) -> dict[str, Any]:
    arguments = {"command": "str_replace", "path": path, "old_str": old, "new_str": new, **more}
    return call("str_replace_editor", arguments)


def view(*lines: Any, path: str = "/w/proj/foo.py") -> dict[str, Any]:
    ranges = {"view_range": lines[0]} if lines else {}
    return call("str_replace_editor", {"command": "view", "path": path, **ranges})


EDIT = edit("    if x > 0:", "    if x >= 0:")
VIEW = view([1, 11])
LONG = "".join(chr(0x4E00 + index) for index in range(800))

# (where the case comes from, gold, call, reason)
VERDICTS = [
    ("2.2 edit: the same", EDIT, EDIT, "none"),
    (
        "2.2 edit: `  # fixed` added, binary",
        EDIT, edit("    if x > 0:", "if x > 0:  # fixed"), SIMILARITY,
    ),
    ("2.2 edit: other editor", EDIT, {**EDIT, "name": "edit_file"}, "none"),
    ("2.2 edit: arguments broken", EDIT, call("edit", "{"), SIMILARITY),
    ("2.2 edit: arguments [1]", EDIT, call("edit", "[1]"), ERROR),
    (
        "2.2 edit: sub-command",
        EDIT, edit("    if x > 0:", "    if x >= 0:", command="insert"), TARGET,
    ),
    (
        "2.2 edit: sub-command missing",
        EDIT, edit("    if x > 0:", "    if x >= 0:", command=""), "none",
    ),
    (
        "2.2 edit: last two components",
        edit("a", "b", "/w/proj/foo.py"), edit("a", "b", "proj/foo.py"), "none",
    ),
    (
        "2.2 edit: another directory",
        edit("a", "b", "/w/proj/foo.py"), edit("a", "b", "/w/prog/foo.py"), TARGET,
    ),
    (
        "2.2 edit: file_path for path",
        call("edit", {"file_path": "p/a.py"}), call("edit", {"path": "q/a.py"}), TARGET,
    ),
    (
        "2.2 edit: path before file",
        call("edit", {"path": "p/a.py"}),
        call("edit", {"file": "q/a.py", "path": "p/a.py"}),
        "none",
    ),
    ("2.2 edit: no path on one side", call("edit", {"path": "p/a.py"}), call("edit", {}), "none"),
    (
        "2.2 edit: lesser of old and new",
        edit("same text", "new text"), edit("same text", "12345678"), SIMILARITY,
    ),
    ("2.2 edit: old is empty on one side", edit("", "new"), edit("old", "new"), SIMILARITY),
    ("2.2 edit: old is empty on both", edit("", "new"), edit("", "new"), "none"),
    (
        "2.2 edit: patch",
        call("apply_patch", {"patch": "@@ -1 +1 @@"}),
        call("apply_patch", {"patch": "@@ -1 +2 @@"}),
        "none",
    ),
    (
        "2.2 edit: patch and diff",
        call("apply_patch", {"patch": "@@ a"}), call("apply_diff", {"diff": "@@ a"}), "none",
    ),
    (
        "2.2 edit: patch before content",
        call("write", {"patch": "a", "content": "x"}), call("write", {"content": "x"}), SIMILARITY,
    ),
    (
        "2.2 edit: content and file_text",
        call("write", {"content": "x = 1"}), call("create_file", {"file_text": "x = 1"}), "none",
    ),
    (
        "2.2 edit: content on one side",
        call("write", {"content": "x = 1"}), call("write", {}), SIMILARITY,
    ),
    ("2.2 edit: both empty", call("write", {}), call("write", {}), "none"),
    ("2.2 view: range left out", VIEW, view(), "none"),
    ("2.2 view: {} under another name", VIEW, call("edit", "{}"), "none"),
    ("2.2 view: eight tenths of the range", VIEW, view([1, 9]), "none"),
    ("2.2 view: seven tenths of the range", VIEW, view([1, 8]), TARGET),
    ("2.2 view: more than the range", VIEW, view([1, 1000]), "none"),
    ("2.2 view: range as text", VIEW, view("[50, 60]"), TARGET),
    ("2.2 view: range of one", VIEW, view([50]), "none"),
    ("2.2 view: range no numbers", VIEW, view(["a", "b"]), "none"),
    ("2.2 view: range of digits in text", VIEW, view(["50", "60"]), TARGET),
    ("2.2 view: [10, -1] taken literally", view([10, 40]), view([10, -1]), TARGET),
    ("2.2 view: [10, -1] on both sides", view([10, -1]), view([10, -1]), TARGET),
    ("2.2 no popular characters", edit(LONG, "x"), edit(LONG[:700], "x"), "none"),
]  # fmt: skip


@table("gold, sampled, reason", VERDICTS)
def test_edits(gold: Any, sampled: Any, reason: str) -> None:
    result = score({"expected_action": gold}, [sampled], Options())
    assert (result.reward, result.reason) == (float(reason == "none"), reason)
