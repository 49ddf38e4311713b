"""What the default recipes of the verifiers that read shell text accept."""

import json
from typing import Any

import pytest

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context, ToolCall
from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.recipe import reward
from pivotrl_jax.verifiers.recipes import DEFAULT

VERIFIERS = ("command", "edit", "terminal")


def call(name: str, **arguments: Any) -> Action:
    return Action("", (ToolCall(name, arguments),))


def accepted(name: str, expert: Action, sampled: Action, context: Context = NO_CONTEXT) -> bool:
    verdict = verifier(name)(expert, ParsedAction(sampled), context)
    assert verdict.error is None
    return reward(DEFAULT[name], verdict.criteria) == 1


def shell(name: str, command: str) -> Action:
    if name != "terminal":
        return call("bash", command=command)
    commands = [{"keystrokes": f"{command}\n"}]
    return Action(json.dumps({"analysis": "a", "plan": "p", "commands": commands}))


EQUAL = [
    ("ls -la", "ls -l -a"),
    ("grep 'foo' a.py", 'grep "foo" a.py'),
    ("cat f | head -n 10", "head f"),
    ("sed -n 1,10p f", "head -n 10 f"),
    ("cat f | grep x", "grep x < f"),
    ("find . -name '*.py' -type f", "find . -type f -name '*.py'"),
    ("head -n 5 f", "head -5 f"),
    ("cat > a.py <<EOF\nx = 1\nEOF", "cat <<END > ./a.py\nx = 1\nEND"),
    ("sed -i s/a/b/ f", "sed --in-place 's/a/b/' f"),
    ("sudo rm f", "sudo rm ./f"),
    ("! test -f a && make", "!  test -f ./a && make"),
]
OTHER = [
    ("git reset --hard", "git reset --soft"),
    ("git reset --hard HEAD~1", "git reset --hard HEAD~2"),
    ("git push origin main --force", "git push origin main"),
    ("git checkout abc123", "git checkout abc124"),
    ("rm a", "rm -r a"),
    ("rm -r src/tests", "rm src/tests"),
    ("rm -rf /tmp/build", "rm -rf /tmp/build2"),
    ("chmod 644 f", "chmod 777 f"),
    ("kill 1", "kill 2"),
    ("a && b", "a || b"),
    ("test -f a.txt && rm b.txt", "test -f a.txt || rm b.txt"),
    ("test -f a && rm b", "! test -f a && rm b"),
    ("while a; do b; done", "until a; do b; done"),
    ("ls", "ls &"),
    ("x=1 ls", "x=2 ls"),
    ("ls 2>/dev/null", "ls >/dev/null"),
    ("ls | grep x", "ls | grep y"),
    ("grep -v x f", "grep x f"),
    ("find . -name a -o -name b", "find . -name a -name b"),
    ("sudo rm f", "rm f"),
    ("sudo -u a rm f", "sudo -u b rm f"),
    ("python -c 'print(1)'", "python -c 'print(2)'"),
    ("python -c 'import a; a.drop_all(True)'", "python -c 'import a; a.drop_all(None)'"),
    ("sed -i 's/foo/bar/' src/a.py", "sed -i 's/foo/baz/' src/a.py"),
    ("sed -i 's/a == b/a != b/' src/m/f.py", "sed -i 's/a == b/a <= b/' src/m/f.py"),
    ("cat > a.py <<EOF\nx = 1\nEOF", "cat > a.py <<EOF\nx = 2\nEOF"),
    ("cat >> a.py <<EOF\nx = 1\nEOF", "cat >> a.py <<EOF\nx = 2\nEOF"),
    ("echo 'x = 1' > conf.py", "echo 'x = 2' > conf.py"),
    ("python manage.py migrate app 0001", "python manage.py migrate app 0002"),
    ("pip install requests==2.0", "pip install requests==3.0"),
]


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_sure_equivalents_are_accepted(name: str, a: str, b: str) -> None:
    assert accepted(name, shell(name, a), shell(name, b))
    assert accepted(name, shell(name, b), shell(name, a))


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize(("a", "b"), OTHER)
def test_other_commands_are_not(name: str, a: str, b: str) -> None:
    assert not accepted(name, shell(name, a), shell(name, b))
    assert not accepted(name, shell(name, b), shell(name, a))
    assert accepted(name, shell(name, a), shell(name, a))


CREATE = call("str_replace_editor", command="create", path="/a", file_text="1")
REPLACE = call("str_replace_editor", command="str_replace", path="/a", old_str="x", new_str="y")
LS = call("bash", command="ls")


@pytest.mark.parametrize("name", ["command", "edit"])
@pytest.mark.parametrize(
    ("a", "b", "passes"),
    [
        (CREATE, call("str_replace_editor", command="create", path="/b", file_text="rm"), False),
        (CREATE, call("str_replace_editor", command="create", path="/a", file_text="2"), False),
        (REPLACE, call("str_replace_editor", command="str_replace", path="/a", old_str="p",
                       new_str="y"), False),
        (CREATE, call("bash", command="create"), False),
        (CREATE, call("foo_tool", command="create", path="/a", file_text="1"), False),
        (LS, call("delete_everything", command="ls"), False),
        (call("delete_everything", command="ls"), LS, False),
        (LS, call("bash", command="ls", is_input=True), False),
        (LS, call("bash", command="ls", is_input="true"), False),
        (LS, call("bash", command="ls", is_input=None), False),
        (LS, call("bash", command="ls", is_input="false"), True),
        (LS, call("bash", command="ls", workdir="/testbed/src"), False),
        (call("f", x=1), call("f", x="1"), False),
        (CREATE, call("str_replace_editor", file_text="1", path="/a", command="create"), True),
        (LS, call("execute_bash", command="ls", timeout=5), True),
        (call("execute_bash", command="ls", security_risk="LOW"), LS, True),
        (call("my_shell", command="ls -la"), call("my_shell", command="ls -a -l"), True),
        (LS, call("bash", command="ls", workdir="/testbed"), True),
        (call("bash", command="cat src/a"), call("bash", command="cat a", workdir="src"), True),
    ],
)  # fmt: skip
def test_calls_are_the_same_by_tool_and_all_arguments(
    name: str, a: Action, b: Action, passes: bool
) -> None:
    assert accepted(name, a, b) == passes


def test_a_tool_that_is_not_declared_does_nothing() -> None:
    context = Context(tools=({"name": "bash", "parameters": {}},))
    other = call("execute_bash", command="ls")
    assert accepted("edit", LS, other)
    assert not accepted("edit", LS, other, context)
    assert accepted("edit", other, other, context)
