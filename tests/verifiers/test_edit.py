"""Edits by the file they produce, on tables of cases and on one real file in four harnesses."""

import difflib
import json
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context, Message, ToolCall
from pivotrl_jax.verifiers import FileEdits, verifier
from pivotrl_jax.verifiers.files import Shown, edits_of, known_files
from pivotrl_jax.verifiers.patches import apply
from pivotrl_jax.verifiers.recipes import SAME_FILES

DATA = Path(__file__).parent / "data"
VERIFY = FileEdits()
FILE = "def f(x):\n    y = x\n    return y\n\n\ndef g(x):\n    y = x\n    return -y"
NUMBERED = "\n".join(f"{n:>6}\t{line}" for n, line in enumerate(FILE.split("\n"), 1))


def call(name: str, **arguments: Any) -> Action:
    return Action("", (ToolCall(name, arguments),))


def editor(command: str, path: str = "/testbed/a.py", **arguments: Any) -> Action:
    return call("str_replace_editor", command=command, path=path, **arguments)


def replace(old: str, new: str, **more: Any) -> Action:
    return editor("str_replace", old_str=old, new_str=new, **more)


def insert(line: int, text: str) -> Action:
    return editor("insert", insert_line=line, new_str=text)


def bash(command: str) -> Action:
    return call("bash", command=command)


def turn(action: Action, result: str = "", failed: bool = False) -> tuple[Message, Message]:
    return Message("assistant", "", action.calls), Message("tool", result, failed=failed)


SEEN = Context(turn(editor("view"), f"Here's the result of running `cat -n` on a.py:\n{NUMBERED}"))


def judge(expert: Action, sampled: Action, context: Context = NO_CONTEXT):
    verdict = VERIFY(expert, ParsedAction(sampled), context)
    assert verdict.error is None
    assert tuple(verdict.criteria) == VERIFY.criteria
    assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return verdict.criteria


def accepted(expert: Action, sampled: Action, context: Context = NO_CONTEXT) -> bool:
    found = judge(expert, sampled, context)
    return all(found[name] >= threshold for name, threshold in SAME_FILES.accept)


EXPERT = replace("    return y", "    return y + 1")
AFTER = FILE.replace("return y\n", "return y + 1\n")
DIFF = "\n".join(difflib.unified_diff(FILE.split("\n"), AFTER.split("\n"), "a/a.py", "b/a.py",
                                      lineterm=""))  # fmt: skip
PATCH = """*** Begin Patch
*** Update File: a.py
@@ def f(x):
-    return y
+    return y + 1
*** End Patch"""
SAME = [
    EXPERT,
    replace("y = x\n    return y\n", "y = x\n    return y + 1\n"),
    replace("    return y\n", "    return y + 1  \n"),
    editor("str_replace", "a.py", old_str="    return y", new_str="    return y + 1"),
    call("edit", filePath="/testbed/a.py", oldString="return y\n", newString="return y + 1\n"),
    call("edit", path="a.py", edits=[{"oldText": "return y\n", "newText": "return y + 1\n"}]),
    editor("create", file_text=AFTER + "\n"),
    call("write_file", path="/testbed/a.py", content=AFTER),
    call("apply_patch", patch=DIFF),
    call("apply_patch", input=PATCH),
    bash(f"cat > a.py << 'EOF'\n{AFTER}\nEOF"),
    bash(f"apply_patch << 'EOF'\n{PATCH}\nEOF"),
]
OTHER = [
    (replace("    return y", "    return y - 1"), "content"),
    (replace("return -y", "return -y + 1"), "content"),
    (replace("    return z", "    return y + 1"), "similarity"),
    (replace("    y = x", "    y = x + 1"), "similarity"),  # twice in the file: refused
    (replace("    return y", "    return y"), "similarity"),
    (editor("str_replace", "/testbed/b.py", old_str="    return y", new_str="    return y + 1"),
     "target"),
    (editor("create", file_text="    return y + 1"), "content"),
    (editor("insert", insert_line=3, new_str="    return y + 1"), "content"),
    (editor("view"), "kind"),
    (bash("rm a.py"), "kind"),
    (Action("", EXPERT.calls + replace("def g", "def h").calls), "content"),
    (Action("", EXPERT.calls + editor("create", "/testbed/b.py", file_text="").calls), "target"),
    (Action("I changed it."), "kind"),
]  # fmt: skip


@pytest.mark.parametrize("sampled", SAME)
def test_other_spellings_make_the_same_file(sampled: Action) -> None:
    expert = replace("    return y\n", "    return y + 1\n")
    assert accepted(expert, sampled, SEEN)
    assert judge(expert, sampled, SEEN)["exact"] == 1
    assert judge(sampled, expert, SEEN) == judge(expert, sampled, SEEN)


@pytest.mark.parametrize(("sampled", "criterion"), OTHER)
def test_other_edits_fail_the_criterion(sampled: Action, criterion: str) -> None:
    expert = replace("    return y\n", "    return y + 1\n")
    found = judge(expert, sampled, SEEN)
    assert found[criterion] < 1
    assert found["exact"] == 0
    assert not accepted(expert, sampled, SEEN)


OLD, NEW = "a\nb\nc\nd\n", "a\nb\nx\nd\n"


@pytest.mark.parametrize(
    ("expert", "sampled", "passes"),
    [
        (replace("b\nc\nd", "b\nx\nd"), replace("c", "x"), True),
        (replace("b\nc", "b\nx"), replace("c\nd", "x\nd"), True),
        (replace("b\nc", "b\nx"), replace("c\nd", "z\nd"), False),
        (replace("b\nc", "b\nn\nc"), replace("a\nb\nc", "a\nb\nn\nc"), True),
        (replace("b\nc", "b\nn\nc"), replace("c\nd", "c\nn\nd"), False),
        (replace("b\nc", "b\nn\nc"), replace("y\nz", "y\nn\nz"), False),
        (replace("c", "x"), replace("c", "x", replace_all=True), False),
        (editor("create", file_text="a\nb"), editor("create", file_text="a  \nb\n"), True),
        (editor("create", file_text="a\nb"), editor("create", file_text="a\nc"), False),
        (insert(3, "n"), insert(3, "n\n"), True),
        (insert(3, "n"), insert(4, "n"), False),
    ],
)  # fmt: skip
def test_edits_of_a_file_that_was_never_shown(expert: Action, sampled: Action, passes: bool):
    assert accepted(expert, sampled) == passes
    assert accepted(sampled, expert) == passes


@pytest.mark.parametrize(
    ("expert", "sampled", "passes"),
    [
        (editor("view", view_range=[10, 40]), editor("view", view_range=[10, 40]), True),
        (editor("view", view_range=[10, 40]), editor("view", view_range=[10, 42]), True),
        (editor("view", view_range=[10, 40]), editor("view", view_range=[20, 60]), False),
        (editor("view", view_range=[10, 40]), editor("view"), False),
        (editor("view", view_range=[10, -1]), bash("tail -n +10 a.py"), True),
        (editor("view"), call("read", filePath="/testbed/a.py"), True),
        (editor("view"), bash("cat a.py"), True),
        (editor("view", view_range=[5, 9]), call("read", path="a.py", offset=5, limit=5), True),
        (editor("view"), editor("view", "/testbed/b.py"), False),
        (bash("grep -n x a.py"), bash("grep  -n 'x' ./a.py"), True),
        (bash("grep -n x a.py"), bash("grep -n quux a.py"), False),
        (bash("pytest a.py"), bash("rm -rf a.py"), False),
        (call("think", thought="a"), call("think", thought="a"), True),
        (call("glob", pattern="*.py"), call("glob", pattern="*.txt"), False),
        (editor("undo_edit"), editor("undo_edit"), True),
        (editor("undo_edit"), editor("undo_edit", "/testbed/b.py"), False),
    ],
)  # fmt: skip
def test_views_commands_and_other_calls(expert: Action, sampled: Action, passes: bool) -> None:
    assert accepted(expert, sampled) == passes
    assert accepted(sampled, expert) == passes


HISTORIES = [
    ((), None),
    (turn(editor("view"), NUMBERED), FILE),
    (turn(editor("view"), "header\n" + NUMBERED + "\n(End of file)"), FILE),
    (turn(bash("cat -n a.py"), f"<code>0</code>\n<output>\n{NUMBERED}\n</output>"), FILE),
    (turn(call("read_file", path="a.py"), json.dumps({"content": FILE, "size": 9})), FILE),
    (turn(call("read", filePath="a.py"), "1: a\n2: b\n\n(Showing 1-2)"), "a\nb"),
    (turn(editor("create", file_text=FILE), "created"), FILE),
    (turn(editor("create", file_text=FILE), "ERROR: exists"), None),
    (turn(editor("create", file_text=FILE), "created", failed=True), None),
    (turn(bash(f"cat > a.py << 'EOF'\n{FILE}\nEOF")), FILE + "\n"),
    (turn(editor("create", file_text=OLD)) + turn(replace("c", "x"), "edited"), NEW),
    (turn(editor("create", file_text=OLD)) + turn(replace("c", "x"), "No replacement"), OLD),
    (turn(editor("create", file_text=OLD)) + turn(replace("q", "x"), "edited"), None),
    (turn(editor("create", file_text=OLD)) + turn(bash("sed -i s/a/b/ a.py")), None),
    (turn(editor("create", file_text=OLD)) + turn(bash("python a.py")), None),
    (turn(editor("create", file_text=OLD)) + turn(bash("git checkout .")), None),
    (turn(editor("create", file_text=OLD)) + turn(bash("git diff a.py; grep x a.py")), OLD),
    (turn(editor("create", file_text=OLD)) + turn(bash("python b.py")), OLD),
    (turn(editor("create", file_text=OLD)) + turn(editor("undo_edit")), None),
    (turn(editor("create", file_text=OLD)) + turn(bash("sed -n 2,3p a.py"), "b\nc"), OLD),
    (turn(bash("tail -2 a.py"), "c\nd"), None),
]  # fmt: skip


@pytest.mark.parametrize(("history", "text"), HISTORIES)
def test_what_a_dialogue_shows_of_a_file(history: tuple[Message, ...], text: str | None) -> None:
    known = known_files(history, {"/testbed/a.py"}, "/testbed")
    assert {path: shown.text for path, shown in known.items()} == (
        {} if text is None else {"/testbed/a.py": text}
    )


def test_commands_that_differ_beyond_the_parsed_part_are_not_the_same() -> None:
    head = "python - << E\n" + "x = 1\n" * 4_000
    assert judge(bash(head + "a\nE"), bash(head + "b\nE"))["command"] == 0
    assert judge(bash(head + "a\nE"), bash(head + "a\nE"))["command"] == 1


def test_long_commands_that_are_not_the_same_are_no_more_than_nearly_so() -> None:
    files = " ".join(f"file_{i}.txt" for i in range(300))
    found = judge(bash(f"cat {files} a b"), bash(f"cat {files} b a"))
    assert 0.9 < found["command"] < 1


def test_the_same_lines_of_another_file_are_no_overlap() -> None:
    other = editor("view", "/testbed/b.py", view_range=[1, 5])
    assert judge(editor("view", view_range=[1, 5]), other)["range"] == 0


def test_edits_nested_in_edits_are_not_followed() -> None:
    inner: dict[str, Any] = {"old_string": "a", "new_string": "b"}
    for _ in range(5_000):
        inner = {"edits": [inner]}
    assert not accepted(EXPERT, call("edit", path="a.py", **inner), SEEN)


def test_part_of_a_file_has_its_line_numbers() -> None:
    history = turn(bash("sed -n '4,6p' a.py"), "d\ne\nf")
    assert known_files(history, {"/testbed/a.py"}, "/testbed") == {
        "/testbed/a.py": Shown("d\ne\nf", 4)
    }
    assert accepted(insert(5, "n"), replace("e\n", "e\nn\n"), Context(history))
    assert not accepted(insert(5, "n"), replace("d\n", "d\nn\n"), Context(history))


def sessions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "astropy_edits.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("session", sessions(), ids=lambda session: session["id"][:40])
def test_real_edits_of_a_real_file(session: dict[str, Any]) -> None:
    history: tuple[Message, ...] = ()
    for step in session["steps"]:
        expert = call(step["name"], **step["arguments"])
        context = Context(history)
        assert judge(expert, expert, context)["exact"] == 1
        (edit, *_) = edits_of(expert.calls[0], "/testbed")
        if edit.action == "replace":
            before = known_files(history, {edit.path}, "/testbed")[edit.path]
            after = apply(before.text, before.first, edit)
            assert (after is None) == ("error" in step["result"][:80])
        if edit.action == "replace" and after is not None:
            assert accepted(expert, call("write_file", path=edit.path, content=after), context)
            lines = edit.new.split("\n")
            shorter = call("edit", filePath=edit.path, oldString=edit.old,
                           newString="\n".join(lines[:-2] + lines[-1:]))  # fmt: skip
            assert not accepted(expert, shorter, context)
        history += turn(expert, step["result"])


def test_four_harnesses_show_the_same_file() -> None:
    views = [session["steps"][0] for session in sessions()]
    shown = [known_files(turn(call(view["name"], **view["arguments"]), view["result"]),
                         {"/testbed/astropy/modeling/separable.py"}, "/testbed")
             for view in views]  # fmt: skip
    texts = {file.text.rstrip("\n") for known in shown for file in known.values()}
    assert len(texts) == 1
    assert len(texts.pop()) > 9_000


@pytest.mark.parametrize("expert", [Action(), Action(" "), Action("", (ToolCall("edit", []),))])
def test_an_expert_that_cannot_be_judged_is_an_error(expert: Action) -> None:
    assert VERIFY(expert, ParsedAction(EXPERT)).error


@pytest.mark.parametrize(
    ("sampled", "passes"),
    [
        (Action("The bug is fixed: all 12 tests pass."), True),
        (Action("The bug is fixed, and all 12 tests pass now."), True),
        (Action("The bug is fixed: all 13 tests pass, 3 fail."), False),
        (Action("Which file do you mean?"), False),
        (Action(" "), False),
        (EXPERT, False),
    ],
)
def test_messages_are_compared_as_messages(sampled: Action, passes: bool) -> None:
    expert = Action("The bug is fixed: all 12 tests pass.")
    assert accepted(expert, sampled) == passes
    assert judge(expert, expert)["exact"] == 1


QUERY = {
    "name": "q",
    "parameters": {
        "type": "object",
        "properties": {
            "s": {"type": "string"},
            "n": {"type": "integer", "default": 5},
            "tags": {"type": "array", "uniqueItems": True},
        },
        "required": ["s"],
    },
}
TOOLS = (QUERY, {"name": "web_search"}, {"name": "fetch_web_page"}, {"name": "bash"})


@pytest.mark.parametrize(
    ("expert", "sampled", "passes"),
    [
        (call("q", s="a"), call("q", s="a", n=5), True),
        (call("q", s="a"), call("q", s="a", n=6), False),
        (call("q", s="a", tags=[1, 2]), call("q", s="a", tags=[2, 1]), True),
        (call("q", s="a", tags=[1, 2]), call("q", s="a", tags=[2, 3]), False),
        (call("web_search", query="Population of Oslo"),
         call("web_search", query="oslo population"), True),
        (call("web_search", query="Population of Oslo"),
         call("web_search", query="Population of Rome"), False),
        (call("fetch_web_page", url="https://A.com/"), call("fetch_web_page", url="https://a.com"),
         True),
        (call("fetch_web_page", url="https://a.com"), call("fetch_web_page", url="https://b.com"),
         False),
    ],
)  # fmt: skip
def test_other_calls_mean_what_their_schemas_say(expert: Action, sampled: Action, passes: bool):
    assert accepted(expert, sampled, Context(tools=TOOLS)) == passes
    assert accepted(sampled, expert, Context(tools=TOOLS)) == passes


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (bash("make"), bash("pytest")),
        (call("q", s="a"), call("q", s="b")),
        (bash("make"), call("q", s="a")),
        (editor("create", "/testbed/b.py", file_text="x"), bash("python b.py")),
        (editor("view"), editor("view", "/testbed/b.py")),
    ],
)
def test_where_order_counts_calls_are_compared_in_order(a: Action, b: Action) -> None:
    expert, turned = Action("", a.calls + b.calls), Action("", b.calls + a.calls)
    ordered = Context(facts={"ordered": True})
    assert accepted(expert, turned)
    assert not accepted(expert, turned, ordered)
    assert accepted(expert, expert, ordered)


def test_malformed_output_scores_nothing() -> None:
    verdict = VERIFY(EXPERT, ParsedAction(EXPERT, ("bad_json",)), SEEN)
    assert set(verdict.criteria.values()) == {0.0}
    assert verifier("edit") == VERIFY
