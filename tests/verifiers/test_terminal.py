"""Terminus answers, on tables of cases and on real expert answers."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context, Message, ToolCall
from pivotrl_jax.verifiers import Terminal, verifier
from pivotrl_jax.verifiers.recipe import reward
from pivotrl_jax.verifiers.recipes import SAME_KEYSTROKES

DATA = Path(__file__).parent / "data"
VERIFY = Terminal()


def answer(*keystrokes: str, **more: Any) -> Action:
    commands = [{"keystrokes": each, "duration": 0.1} for each in keystrokes]
    return Action(json.dumps({"analysis": "a", "plan": "p", "commands": commands, **more}))


def first_harness(*keystrokes: str, **more: Any) -> Action:
    commands = [{"keystrokes": k, "is_blocking": True, "timeout_sec": 3} for k in keystrokes]
    return Action(json.dumps({"state_analysis": "a", "explanation": "e", "commands": commands,
                              "is_task_complete": False, **more}))  # fmt: skip


def judge(expert: Action, sampled: Action, context: Context = NO_CONTEXT):
    verdict = VERIFY(expert, ParsedAction(sampled), context)
    assert verdict.error is None
    assert tuple(verdict.criteria) == VERIFY.criteria
    assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return verdict.criteria


def accepted(criteria: Any) -> bool:
    return reward(SAME_KEYSTROKES, criteria) == 1


@pytest.mark.parametrize(
    ("expert", "sampled"),
    [
        (answer("ls -la\n"), answer("ls -l -a\n")),
        (answer("ls", " -la\n"), answer("ls -la\n")),
        (answer("ls\n", "pwd\n"), answer("ls\npwd\n")),
        (answer("ls -la", "Enter"), answer("ls -la\n")),
        (answer("cat > f << 'EOF'\n", "x = 1\n", "EOF\n"), answer("cat > f << END\nx = 1\nEND\n")),
        (answer("cat f | head -c 10\n"), answer("head --bytes=10 f\n")),
        (answer("cd src\n", "cat a.py\n"), answer("cd ./src && cat a.py\n")),
        (answer("cat /app/a.py\n"), answer("cat a.py\n")),
        (answer(), answer()),
        (answer(""), answer()),
        (answer(task_complete=True), answer(task_complete=True)),
        (answer("ls\n"), answer("ls\n", task_complete=False)),
        (answer("C-c", "ls\n"), answer("C-c", "ls\n")),
        (answer("a\n", "b\n", "C-c"), answer("a\nb\n", "C-c")),
    ],
)
def test_equivalent_answers_are_exact(expert: Action, sampled: Action) -> None:
    found = judge(expert, sampled)
    assert set(found.values()) == {1.0}
    assert judge(sampled, expert) == found


@pytest.mark.parametrize(
    ("expert", "sampled", "criterion"),
    [
        (answer("ls\n", task_complete=True), answer("ls\n"), "complete"),
        (answer("ls\n"), answer("ls\n", task_complete=True), "complete"),
        (answer("ls\n"), answer("ls"), "keys"),
        (answer("C-c"), answer("C-d"), "keys"),
        (answer("C-c", "ls\n"), answer("ls\n", "C-c"), "keys"),
        (answer("C-c", "ls\n"), answer("ls\n"), "keys"),
        (answer("cd src\n", "ls\n"), answer("ls src\n"), "directory"),
        (answer("cat src/f\n"), answer("(cd src && true) && cat f\n"), "program"),
        (answer("ls\n", "pwd\n"), answer("pwd\n", "ls\n"), "program"),
        (answer("ls\n", "pwd\n"), answer("ls\n"), "program"),
        (answer("ls\n"), answer(), "program"),
        (answer(), answer("rm -rf /\n"), "program"),
        (answer("rm -rf build\n"), answer("rm -rf /\n"), "targets"),
        (answer("grep foo f\n"), answer("grep quux f\n"), "pattern"),
        (answer("make > log\n"), answer("make > log &\n"), "exact"),
        (
            answer("cat > f << E\n" + "x\n" * 9_000 + "E\na\n"),
            answer("cat > f << E\n" + "x\n" * 9_000 + "E\nb\n"),
            "exact",
        ),
        (answer("a > f 2>&1\n"), answer("a 2>&1 > f\n"), "exact"),
    ],
)
def test_other_answers_fail_the_criterion(expert: Action, sampled: Action, criterion: str) -> None:
    found = judge(expert, sampled)
    assert found[criterion] < 1
    assert found["exact"] == 0
    assert judge(sampled, expert) == found
    assert not accepted(found)


BODY = json.loads(answer("ls\n").text)


@pytest.mark.parametrize(
    ("text", "reached"),
    [
        ("```json\n" + answer("ls\n").text + "\n```", "well_formed"),
        ("Sure! " + answer("ls\n").text, "well_formed"),
        ("[]", "well_formed"),
        ("", "well_formed"),
        ('{"a": NaN}', "well_formed"),
        ("[" * 200_000, "well_formed"),
        (answer("ls\n").text.replace('"plan"', '"analysis"'), "well_formed"),
        (first_harness("ls\n").text, "kind"),
        (json.dumps({**BODY, "extra": 1}), "kind"),
        (json.dumps({**BODY, "commands": [{"keystrokes": "ls\n", "x": 1}]}), "kind"),
        (json.dumps({**BODY, "commands": [{"duration": 1}]}), "kind"),
        (json.dumps({**BODY, "commands": [{"keystrokes": "ls\n", "duration": "1"}]}), "kind"),
        (json.dumps({**BODY, "commands": "ls\n"}), "kind"),
        (json.dumps({**BODY, "task_complete": "true"}), "kind"),
        (json.dumps({"analysis": "a", "commands": []}), "kind"),
    ],
)
def test_malformed_answers(text: str, reached: str) -> None:
    found = judge(answer("ls\n"), Action(text))
    names = VERIFY.criteria[: VERIFY.criteria.index(reached) + 1]
    assert {name for name, score in found.items() if score} == set(names)


def test_a_call_is_no_answer() -> None:
    call = Action("", (ToolCall("terminal", BODY),))
    assert judge(answer("ls\n"), call)["kind"] == 0
    verdict = VERIFY(answer("ls\n"), ParsedAction(answer("ls\n"), ("unclosed_think",)))
    assert set(verdict.criteria.values()) == {0.0}


def test_the_harness_is_the_records() -> None:
    expert = first_harness("ls\n")
    assert set(judge(expert, first_harness("ls\n")).values()) == {1.0}
    assert judge(expert, first_harness("ls\n", is_task_complete=True))["complete"] == 0
    assert VERIFY(expert, ParsedAction(expert), Context(facts={"harness": "terminus_2"})).error
    assert VERIFY(expert, ParsedAction(expert), Context(facts={"harness": "terminus_1"})).criteria
    assert VERIFY(Action("ls"), ParsedAction(expert)).error
    assert VERIFY(Action("", (ToolCall("f", {}),)), ParsedAction(expert)).error


def test_the_directory_is_read_off_the_last_prompt() -> None:
    history = (Message("user", "root@c63bd5d3-c64:/a# ls\na\nroot@c63bd5d3-c64:/workspace#"),
               Message("assistant", "root@x:/elsewhere#"))  # fmt: skip
    pair = answer("cat /workspace/a\n"), answer("cat a\n")
    assert judge(*pair, Context(history))["exact"] == 1
    assert judge(*pair)["exact"] == 0
    assert judge(*pair, Context((*history, Message("user", "root@x:/tmp#"))))["exact"] == 0


def real() -> list[tuple[Action, Context]]:
    rows = map(json.loads, (DATA / "terminus.jsonl").read_text().splitlines())
    return [(Action(row["expected_answer"]), Context((Message("user", row["screen"]),)))
            for row in rows]  # fmt: skip


def keystrokes(action: Action) -> list[str]:
    return [command["keystrokes"] for command in json.loads(action.text)["commands"]]


def test_real_answers_equal_themselves_and_only_rewritings_of_themselves() -> None:
    for expert, context in real():
        assert set(judge(expert, expert, context).values()) == {1.0}
    for (expert, context), (other, _) in itertools.permutations(real()[::2], 2):
        found = judge(expert, other, context)
        assert accepted(found) == (found["exact"] == 1)


def test_a_changed_file_name_in_a_real_answer_does_not_pass() -> None:
    changed = [
        (e, Action(e.text.replace("command_capture.txt", "capture.log")), c) for e, c in real()
    ]
    different = [each for each in changed if keystrokes(each[0]) != keystrokes(each[1])]
    assert len(different) > 15
    assert not any(accepted(judge(*each)) for each in different)


def test_is_found_by_name() -> None:
    assert verifier("terminal") == VERIFY
