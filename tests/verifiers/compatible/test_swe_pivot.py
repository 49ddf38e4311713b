"""swe_pivot: each case named after the row of upstream's observed semantics it comes from."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pivotrl_jax.verifiers.compatible.swe_pivot import Options, score

NAME, TARGET = "tool_name_mismatch", "target_mismatch"
SIMILARITY, ERROR = "similarity_below_threshold", "unknown_error"
NO_GOLD, NO_CALL = "expected_action_invalid", "model_output_invalid"
CONTINUOUS = Options(reward_mode="continuous")


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def call(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text}


def bash(command: str, name: str = "execute_bash", **more: Any) -> dict[str, Any]:
    return call(name, {"command": command, **more})


def edit(old: str, new: str, path: str = "/w/proj/foo.py", **more: Any) -> dict[str, Any]:
    arguments = {"command": "str_replace", "path": path, "old_str": old, "new_str": new, **more}
    return call("str_replace_editor", arguments)


LS = bash("ls -la", security_risk="LOW")
GREP = call("grep", {"pattern": "total", "path": "src/models"})
EDIT = edit("    if x > 0:", "    if x >= 0:")
# 800 different characters: none is popular, so the ratio is plain.
LONG = "".join(chr(0x4E00 + index) for index in range(800))
RUN = "python3 -m pytest -q tests/units/test_a.py"
TENS = "bcdefghij " * 20

# (where the case comes from, gold, call, reason)
VERDICTS = [
    (
        "2.2 bash: other bash-type name, no security_risk",
        LS, bash("ls -la", "run_shell_cmd"), "none",
    ),
    ("2.2 bash: joined words", LS, bash("ls -la", "ExecCommand"), "none"),
    ("2.2 bash: other case", LS, bash("ls -la", "EXECUTE_BASH"), "none"),
    ("2.2 bash: cmd for command", LS, call("shell", {"cmd": "ls -la"}), "none"),
    ("2.2 bash: white space around", LS, bash(" ls -la\n"), "none"),
    ("2.2 bash: path in front of the verb", bash(RUN), bash(f"/usr/bin/{RUN}"), "none"),
    ("2.2 bash: assignment is the verb", bash("FOO=1 pytest"), bash("pytest FOO=1"), TARGET),
    ("2.2 bash: same assignment", bash("FOO=1 pytest -q"), bash("FOO=1 pytest -qq"), "none"),
    ("2.2 bash: pytest vs grep", bash("pytest -q tests"), bash("grep -q tests"), TARGET),
    ("2.2 bash: verb in other case", bash("ls -la"), bash("LS -la"), TARGET),
    ("2.2 bash: no common path", bash("cat src/models/a.py"), bash("cat src/views/a.py"), TARGET),
    (
        "2.2 bash: common suffix of three",
        bash("cat /w/src/models/a.py"), bash("cat src/models/a.py"), "none",
    ),
    (
        "2.2 bash: one common path suffices",
        bash("diff a/b.py c/d.py"), bash("diff a/b.py c/e.py"), "none",
    ),
    ("2.2 bash: bare names are no paths", bash("cat foo.py -n"), bash("cat fob.py -n"), "none"),
    (
        "2.2 bash: a path of two characters is none",
        bash("cd /a && make"), bash("cd /b && make"), "none",
    ),
    ("2.2 bash: paths on one side only", bash("cat x/foo.py"), bash("cat xfoo.py"), "none"),
    (
        "2.2 bash: an option's path counts",
        bash("make --dir=a/bc x"), bash("make --dir=a/bd x"), TARGET,
    ),
    ("2.2 bash: quoted path", bash("cat 'a/b.py' -n"), bash('cat "a/b.py" -n'), "none"),
    ("2.2 bash: ratio below 0.3", bash("cd " + "a" * 40), bash("cd " + "b" * 40), TARGET),
    (
        "2.2 bash: ratio below 0.8",
        bash("git log --oneline -n 5"), bash("git log --stat -n 9000"), SIMILARITY,
    ),
    ("2.2 bash: arguments broken", LS, call("bash", "{"), "none"),
    ("2.2 bash: arguments [1]", LS, call("bash", "[1]"), "none"),
    ("2.2 bash: arguments {}", LS, call("bash", "{}"), "none"),
    ("2.2 bash: arguments null", LS, call("bash", "null"), ERROR),
    ("2.2 bash: arguments a number", LS, call("bash", "5"), ERROR),
    ("2.2 bash: arguments are the text of a key", LS, call("bash", '"command"'), ERROR),
    ("2.2 bash: similarity exactly 0.8", bash("abcdefgh12"), bash("abcdefgh34"), TARGET),
    ("2.2 bash: one character of a verb", bash("ab cd efgh"), bash("ab cd ef12"), "none"),
    ("2.2 bash: similarity 0.8", bash("a bcdefg12"), bash("a bcdefg34"), "none"),
    ("2.2 bash: similarity 0.7", bash("a bcdef123"), bash("a bcdef456"), SIMILARITY),
    (
        "2.2 search: another pattern, same path",
        GREP, call("grep", {"pattern": "x", "path": "src/models"}), "none",
    ),
    ("2.2 search: extra flag", GREP, call("grep", {"path": "src/models", "flags": "-i"}), "none"),
    (
        "2.2 search: src/views",
        GREP, call("grep", {"pattern": "total", "path": "src/views"}), TARGET,
    ),
    (
        "2.2 search: last three components",
        GREP, call("glob", {"path": "/repo/src/models/"}), TARGET,
    ),
    (
        "2.2 search: another prefix",
        call("grep", {"path": "/a/b/c/d"}), call("grep", {"path": "/x/b/c/d"}), "none",
    ),
    (
        "2.2 search: another tool of its kind",
        GREP, call("code_search", {"file": "src/models"}), "none",
    ),
    ("2.2 search: {}", GREP, call("grep", "{}"), "none"),
    ("2.2 search: null", GREP, call("grep", "null"), ERROR),
    ("2.2 search / read", GREP, call("read_file", {"path": "src/models"}), NAME),
    ("2.2 search / bash", GREP, bash("grep total src/models"), NAME),
    ("2.2 read: {}", call("read", {"path": "a.py"}), call("view_file", "{}"), "none"),
    ("2.2 finish vs submit", call("finish", {"message": "done"}), call("submit", {}), "none"),
    ("2.2 finish: null", call("finish", {"message": "done"}), call("finish", "null"), "none"),
    (
        "2.2 think: other text",
        call("think", {"thought": "a"}), call("think", {"thought": "b"}), "none",
    ),
    (
        "2.2 task_tracker vs todo_write",
        call("task_tracker", {}), call("todo_write", {"a": 1}), "none",
    ),
    ("2.2 planning vs think", call("task_tracker", {}), call("think", {}), NAME),
    (
        "2.2 unknown tool: other arguments",
        call("deploy", {"a": 1}), call("Deploy", {"a": 2}), "none",
    ),
    ("2.2 unknown tool: other name", call("deploy", {}), call("release", {}), NAME),
    (
        "2.6 popular characters: four inserted into 400",
        bash(f"a{TENS}{TENS}"), bash(f"a{TENS}wxyz{TENS}"), SIMILARITY,
    ),
    (
        "2.2 only 2,000 characters count",
        bash("x " + "ab" * 999 + "cdefgh" * 999), bash("x " + "ab" * 999), "none",
    ),
]  # fmt: skip


@table("gold, sampled, reason", VERDICTS)
def test_binary(gold: Any, sampled: Any, reason: str) -> None:
    result = score({"expected_action": gold}, [sampled], Options())
    assert (result.reward, result.reason) == (float(reason == "none"), reason)


RM, PYTEST = bash("rm -rf build"), bash("pytest -q tests")
LEVEL_0 = Options(enable_target_match=False, enable_argument_similarity=False)
# (where the case comes from, options, gold, call, reward)
REWARDS = [
    ("2.2 level 0 only: rm -rf build", LEVEL_0, PYTEST, RM, 1),
    ("2.2 level 0 only: another category", LEVEL_0, PYTEST, GREP, 0),
    ("2.2 targets off, similarity on", Options(enable_target_match=False), PYTEST, RM, 0),
    ("2.2 similarity off, targets on", Options(enable_argument_similarity=False), PYTEST, RM, 0),
    (
        "2.2 similarity off: other flags",
        Options(enable_argument_similarity=False), bash("ls -l x"), bash("ls -a y"), 1,
    ),
    ("2.2 continuous at 0.4", CONTINUOUS, bash("a bc123456"), bash("a bcdefghi"), 0.5),
    ("2.2 continuous at 0.6", CONTINUOUS, bash("a bcde1234"), bash("a bcde5678"), 0.75),
    ("2.2 continuous at 0.8", CONTINUOUS, bash("a bcdefg12"), bash("a bcdefg34"), 1),
    ("2.2 continuous below 0.4", CONTINUOUS, bash("a b1234567"), bash("a bcdefghi"), 0),
    (
        "2.2 continuous: tiny edit has a size",
        CONTINUOUS, edit("a", "b" * 5), edit("a", "b" * 5), 1 - 0.1 * 7 / 500,
    ),
    (
        "2.2 continuous: 500 characters and more",
        CONTINUOUS, edit(LONG, LONG), edit(LONG, LONG), 0.9,
    ),
    (
        "2.2 continuous: the size is the rollout's",
        CONTINUOUS,
        call("write", {"content": LONG[:300]}),
        call("write", {"content": LONG[:250]}),
        0.95,
    ),
    (
        "2.2 continuous: partial credit times size",
        CONTINUOUS, edit("old", "bcde1234"), edit("old", "bcde5678"), 0.625 * (1 - 0.1 * 12 / 500),
    ),
    ("2.2 continuous: bash has no size", CONTINUOUS, LS, LS, 1),
    (
        "2.2 continuous: size off",
        replace(CONTINUOUS, enable_diff_size_shaping=False), edit("a", "b"), edit("a", "b"), 1,
    ),
    ("2.2 binary: no size", Options(), edit(LONG, LONG), edit(LONG, LONG), 1),
    (
        "2.2 other alpha",
        replace(CONTINUOUS, diff_size_alpha=0.5), edit(LONG, LONG), edit(LONG, LONG), 0.5,
    ),
    (
        "2.2 full credit from 0.6",
        Options(similarity_full_credit=0.6), bash("a bcde1234"), bash("a bcde5678"), 1,
    ),
    (
        "2.2 partial credit from 0.5",
        replace(CONTINUOUS, similarity_threshold=0.5), bash("a bc123456"), bash("a bcdefghi"), 0,
    ),
]  # fmt: skip


@table("options, gold, sampled, reward", REWARDS)
def test_rewards(options: Options, gold: Any, sampled: Any, reward: float) -> None:
    assert score({"expected_action": gold}, [sampled], options).reward == pytest.approx(reward)


def test_the_reviewed_edit_earns_most_of_the_reward() -> None:
    """2.2: continuous, new string `if x > 0:  # fixed` for gold `if x >= 0:` scores 0.799."""
    gold = edit("if x > 1:", "if x >= 0:")
    sampled = edit("if x > 1:", "if x > 0:  # fixed")
    assert score({"expected_action": gold}, [sampled], Options()).reward == 0
    assert score({"expected_action": gold}, [sampled], CONTINUOUS).reward == pytest.approx(
        0.8, abs=0.01
    )


def test_the_ratio_takes_the_rollout_first() -> None:
    """2.6: ("tide", "diet") has ratio 0.25 and ("diet", "tide") 0.5."""
    options = Options(enable_target_match=False)
    diet, tide = (
        score(
            {"expected_action": call("bash", {"cmd": gold})},
            [call("bash", {"cmd": sampled})],
            options,
        )
        for gold, sampled in (("tide", "diet"), ("diet", "tide"))
    )
    assert (diet.criteria["similarity"], tide.criteria["similarity"]) == (0.5, 0.25)


def test_criteria_are_those_that_were_reached() -> None:
    assert score({"expected_action": LS}, [GREP], Options()).criteria == {"name": 0}
    target = score({"expected_action": PYTEST}, [RM], Options())
    assert target.criteria == {"name": 1, "target": 0}
    whole = score({"expected_action": EDIT}, [EDIT], CONTINUOUS)
    assert list(whole.criteria) == ["name", "target", "similarity", "size"]
