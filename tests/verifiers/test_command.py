"""Pairs of real expert commands and their rewritings, properties, and hostile input."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.text.actions import FencedBash, ParsedAction
from pivotrl_jax.trajectories.schema import Action, ToolCall
from pivotrl_jax.verifiers import Command

EXPERTS = (
    Path(__file__).parents[2] / "experiments/data/swe/swebench_mini_swe_agent_deepseek.jsonl.gz"
)
VERIFY = Command()


def bash(command: str) -> Action:
    return Action("", (ToolCall("bash", {"command": command}),))


def scores(expert: str, sampled: str) -> dict[str, float]:
    verdict = VERIFY(bash(expert), ParsedAction(bash(sampled)))
    assert verdict.error is None
    assert tuple(verdict.criteria) == VERIFY.criteria
    assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return dict(verdict.criteria)


EQUIVALENT = [
    ("cd /testbed && git status", "git status"),
    ("cd /testbed; git status", "git   status"),
    ("ls -la", "ls -l -a"),
    ("ls -la", "ls -al ."),
    ("ls -la /testbed/", "cd /testbed && ls -la"),
    ("cat ./django/utils/http.py", "cat django/utils/http.py"),
    ("cat /testbed/patch.txt", "cat patch.txt"),
    ("cd /testbed/src && cat a.py", "cat src/a.py"),
    ("cd src && cat ../setup.py", "cat setup.py"),
    ("head -20 setup.py", "head -n 20 setup.py"),
    ("head -20 setup.py", "head -n20 setup.py"),
    ("head -20 setup.py", "cat setup.py | head -20"),
    ("head -20 setup.py", "sed -n '1,20p' setup.py"),
    ("head setup.py", "head --lines=10 setup.py"),
    ("cat ./django/utils/http.py | sed -n '176,185p'", "sed -n 176,185p django/utils/http.py"),
    ("head -420 schema.py | tail -30", "sed -n '391,420p' schema.py"),
    ("sed -n '100,$p' schema.py", "tail -n +100 schema.py"),
    ("sed -n '100,200p' schema.py | head -20", "sed -n '100,119p' schema.py"),
    ("sed -n '100,+19p' schema.py", "sed -n '100,119p' schema.py"),
    ("tail -50 log.txt", "cat log.txt | tail -n 50"),
    (
        "cat -n pydicom/jsonrep.py | sed -n '189,233p'",
        "nl -ba pydicom/jsonrep.py | sed -n 189,233p",
    ),
    ('grep -n "is_cyclic" -A 10 query.py', "grep -A10 -n is_cyclic query.py"),
    ("grep -nA 10 is_cyclic query.py", "grep -n is_cyclic query.py -A 10"),
    ("cat query.py | grep -n is_cyclic", "grep -n is_cyclic query.py"),
    ("cat -n query.py | grep is_cyclic", "grep -n is_cyclic query.py"),
    ("grep -e is_cyclic query.py", "grep is_cyclic query.py"),
    ("grep -5 is_cyclic query.py", "grep -C 5 is_cyclic query.py"),
    ('grep -r "union" --include="*.py" django/', "grep -r --include='*.py' union ./django"),
    ('grep -r "union" --include "*.py" django/', "grep -r --include=*.py union django"),
    ('grep -rn "union" .', "grep -n -r union"),
    ("egrep -n 'a|b' f.py", 'grep -nE "a|b" f.py'),
    ('grep -n "a\\|b" f.py', "grep -n 'a\\|b' f.py"),
    ('grep -n "<" f.py', "grep -n '<' f.py"),
    ("python reproduce.py", "python3 reproduce.py"),
    ("python reproduce.py", "/usr/bin/python3.9 ./reproduce.py"),
    ("python reproduce.py", "timeout 60 python reproduce.py 2>&1"),
    ("python -m pytest tests/test_a.py -x -v", "pytest -v -x tests/test_a.py"),
    ("pytest -k union tests/", "pytest tests -k union"),
    ("pip install -q asgiref", "pip3 install asgiref -q"),
    ("python -m pip install asgiref", "pip  install asgiref"),
    ('python -c "import django"', "python3 -c 'import django'"),
    ("python -c 'import django'", "python << 'EOF'\nimport django\nEOF"),
    ('find . -name "*.py" -type f', "find /testbed -type f -name '*.py' -print"),
    ("find . -type f -exec grep -l Http404 {} \\;", "find . -type f | xargs grep -l Http404"),
    ("git log -n 5 -- a.py", "git log -5 a.py"),
    ("# Restore it first\ngit checkout a.py 2>&1", "git checkout a.py"),
    ("cat > f.py << 'EOF'\nx = 1\nEOF", "cat <<END > ./f.py\nx = 1\nEND"),
    ("cat > f.py << 'EOF'\nx = 1\nEOF", "tee f.py << EOF\nx = 1\nEOF"),
    ("grep -n x \\\n  f.py", "grep -n x f.py"),
    ("cat < f.py", "cat f.py"),
    ("grep -n x < f.py", "cat f.py | grep -n x"),
    ("wc -l < f.py", "cat f.py | wc -l"),
    ("head -c 100 f.bin", "head --bytes=100 f.bin"),
    ("head -c 100 f.bin", "cat f.bin | head -c100"),
    ("tail -c 100 f.bin", "tail -c 100 < f.bin"),
    ("grep --line-number --ignore-case x f.py", "grep -in x f.py"),
    ("grep --regexp=x --after-context 3 f.py", "grep -A3 x f.py"),
    ("sed --in-place s/a/b/ f.py", "sed -i s/a/b/ f.py"),
    ("sed --in-place=.old s/a/b/ f.py", "sed -i.old s/a/b/ f.py"),
    ("sed --quiet 3,9p f.py", "sed -n 3,9p f.py"),
    ("ls --all -l", "ls -la"),
    ("rm --recursive --force build", "rm -rf build"),
    ("curl -s -L http://a.b/c -o d", "curl --location --silent --output d http://a.b/c"),
    ("du -sh .", "du -h --summarize"),
    ("(cd src && cat a.py)", "cat src/a.py"),
    ("(cd src && make); cat a.py", "(cd ./src; make); cat a.py"),
    ("python a.py 2>&1 > log", "python a.py > log"),
    ("python a.py &> log", "python a.py > log 2>&1"),
]

DIFFERENT = [
    ("cat a.py", "cat b.py", "targets"),
    ("cat a.py", "rm a.py", "program"),
    ("cat a.py", "cat a.py > b.py", "subcommand"),
    ("cat a.py", "head -20 a.py", "subcommand"),
    ("cat src/a.py", "cat a.py", "targets"),
    ("cat /etc/setup.py", "cat setup.py", "targets"),
    ("cat ../setup.py", "cat setup.py", "targets"),
    ("sed -n '10,40p' f.py", "sed -n '12,45p' f.py", "range"),
    ("sed -n '10,40p' f.py", "sed -n '100,140p' f.py", "range"),
    ("sed -n '1,10p' f.py", "tail -10 f.py", "range"),
    ("sed -i 's/a/b/' f.py", "sed 's/a/b/' f.py", "subcommand"),
    ("sed -i 's/a/b/' f.py", "sed -i 's/a/c/' f.py", "pattern"),
    ("grep -n union f.py", "grep -n distinct f.py", "pattern"),
    ("grep -n union f.py", "grep -v union f.py", "exact"),
    ("grep -n '|' f.py", "grep -n | f.py", "program"),
    ("grep -A 10 union f.py", "grep -A 20 union f.py", "exact"),
    ("grep -rl union .", "grep -rl union . | xargs sed -i s/union/all/", "program"),
    ("find . -name '*.py'", "find . -name '*.txt'", "pattern"),
    ("find . -name '*.py'", "find . -name '*.py' -delete", "subcommand"),
    ("find . -name a -o -name b", "find . -name b -o -name a -type f", "exact"),
    ("python a.py", "python b.py", "subcommand"),
    ("python a.py", "cd tests && python ../a.py", "exact"),
    ("python a.py", "DEBUG=1 python a.py", "exact"),
    ("python -c 'import a'", "python -c 'print(1 + 1)'", "pattern"),
    ("python -m django test a", "python -m django migrate a", "subcommand"),
    ("python tests/runtests.py utils_tests", "python tests/runtests.py migrations", "targets"),
    ("git diff", "git status", "subcommand"),
    ("git diff", "git diff > patch.txt", "subcommand"),
    ("git stash", "git stash pop", "subcommand"),
    ("git diff HEAD -- a.py", "git diff HEAD -- b.py", "targets"),
    ("cp a.py a.py.orig", "cp a.py.orig a.py", "subcommand"),
    ("cat > f.py << 'EOF'\nx = 1\nEOF", "cat >> f.py << 'EOF'\nx = 1\nEOF", "subcommand"),
    ("cat > f.py << 'EOF'\nx = 1\nEOF", "cat > f.py << 'EOF'\nx = 2\nEOF", "pattern"),
    ("cat > f.py << 'EOF'\nx = 1\nEOF\npython f.py", "cat > f.py << 'EOF'\nx = 1\nEOF", "program"),
    ("echo COMPLETE_TASK && cat patch.txt", "echo done && cat patch.txt", "subcommand"),
    ("python a.py $HOME", "python a.py '$HOME'", "targets"),
    ("a.sh && b.sh", "a.sh || b.sh", "exact"),
    ("a.sh && b.sh", "b.sh && a.sh", "program"),
    ("frob -o a -p b", "frob -p a -o b", "exact"),
    ("python a.py 2>&1 | tail -5", "python a.py | tail -5", "exact"),
    ("python a.py > log 2>&1", "python a.py > log", "exact"),
    ("python a.py > log 2>&1", "python a.py 2>&1 > log", "exact"),
    ("python a.py 2>&1 > log | cat", "python a.py > log | cat", "exact"),
    ("(cd src && make) && cat a.py", "cd src && make && cat a.py", "targets"),
    ("(cd src && cat a.py); cat b.py", "cat src/a.py; cat src/b.py", "targets"),
    ("grep x f.py < g.py", "grep x f.py g.py", "exact"),
    ("head -c 100 f.bin", "head -n 100 f.bin", "program"),
    ("wc -l < f.py", "wc -c < f.py", "exact"),
    ("ls --reverse", "ls -R", "exact"),
    ("sort < f > g", "sort f", "subcommand"),
    ("git reset --hard", "git reset --soft", "flags"),
    ("kill 1", "kill 2", "flags"),
    ("DEBUG=1 make", "DEBUG=0 make", "flags"),
    ("sudo rm f", "rm f", "flags"),
    ("! test -f a", "test -f a", "flags"),
    ("a && b", "a || b", "operators"),
    ("make", "make &", "operators"),
    ("make | cat", "make", "operators"),
    ("python -c 'print(1)'", "python -c 'print(2)'", "content"),
    ("sed -i s/a/b/ f", "sed -i s/a/c/ f", "content"),
    ("cat >> f << E\nx = 1\nE", "cat >> f << E\nx = 2\nE", "content"),
    ("echo 'x = 1' > f", "echo 'x = 2' > f", "content"),
    ("bc <<< 1+1", "bc <<< 1+2", "content"),
]


@pytest.mark.parametrize(("expert", "sampled"), EQUIVALENT)
def test_rewritings_are_exact(expert: str, sampled: str) -> None:
    assert scores(expert, sampled) == dict.fromkeys(VERIFY.criteria, 1.0)


@pytest.mark.parametrize(("expert", "sampled", "criterion"), DIFFERENT)
def test_different_commands_differ_in_the_criterion(expert: str, sampled: str, criterion: str):
    found = scores(expert, sampled)
    assert found[criterion] < 1
    assert found["exact"] == 0


def expert_commands() -> list[str]:
    with gzip.open(EXPERTS, "rt") as lines:
        messages = [message for line in lines for message in json.loads(line)["messages"]]
    calls = [call["function"]["arguments"] for m in messages for call in m.get("tool_calls") or ()]
    decoded = (json.loads(call) if isinstance(call, str) else call for call in calls)
    return sorted({arguments["command"] for arguments in decoded})


def test_every_expert_command_agrees_with_itself() -> None:
    commands = expert_commands()
    assert len(commands) > 3000
    ones = dict.fromkeys(VERIFY.criteria, 1.0)
    assert [command for command in commands if scores(command, command) != ones] == []


def test_is_symmetric_and_exact_implies_all_on_real_pairs() -> None:
    commands = expert_commands()[::4]
    for a, b in itertools.pairwise(commands):
        forward = scores(a, b)
        assert forward == scores(b, a)
        assert forward["exact"] == 0 or set(forward.values()) == {1.0}


def test_ranges_overlap_by_intersection_over_union() -> None:
    assert scores("sed -n 10,40p f", "sed -n 12,45p f")["range"] == pytest.approx(29 / 36)
    assert scores("tail -30 f", "tail -60 f")["range"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("expert", "sampled", "flags"),
    [
        ("rm -r a", "rm -f a", 0.0),
        ("rm -rf a", "rm -r a", 2 / 3),
        ("ls -a -l", "ls -la | head", 1.0),
        ("grep -n x f", "grep -n y f", 1.0),
    ],
)
def test_flags_are_an_f1_overlap(expert: str, sampled: str, flags: float) -> None:
    assert scores(expert, sampled)["flags"] == pytest.approx(flags)


def test_what_is_searched_for_is_no_content() -> None:
    found = scores("grep x f | wc -l", "grep y f | wc -l")
    assert found["content"] == found["operators"] == 1
    assert found["pattern"] < 1


def test_targets_are_an_f1_overlap() -> None:
    assert scores("cat a b c", "cat b c d e")["targets"] == pytest.approx(4 / 7)


def test_destruction_is_nothing_like_a_test_run() -> None:
    found = scores("python -m pytest tests/", "rm -rf /")
    assert found.pop("similarity") < 0.5
    assert {name for name, score in found.items() if score} == {"well_formed", "kind", "name"}


@pytest.mark.parametrize(
    ("sampled", "reason"),
    [
        (FencedBash().parse("I am done."), "no_fenced_block"),
        (ParsedAction(bash("ls"), ("text_after_block",)), "text_after_block"),
        (ParsedAction(Action("hello")), "0 calls"),
        (ParsedAction(Action("", bash("ls").calls * 2)), "2 calls"),
    ],
)
def test_malformed_output_is_a_failure_not_an_error(sampled: ParsedAction, reason: str) -> None:
    verdict = VERIFY(bash("ls"), sampled)
    assert verdict.error is None
    assert set(verdict.criteria.values()) == {0.0}
    assert reason in verdict.reason


def test_an_empty_command_says_so() -> None:
    verdict = VERIFY(bash("ls"), ParsedAction(bash("")))
    assert verdict.reason == "no command"
    assert verdict.criteria["program"] == verdict.criteria["exact"] == 0


@pytest.mark.parametrize("expert", [Action("hello"), bash(""), bash("# nothing"), bash(" \n")])
def test_an_expert_that_cannot_be_judged_is_an_error(expert: Action) -> None:
    verdict = VERIFY(expert, ParsedAction(bash("ls")))
    assert verdict.criteria == {}
    assert verdict.error


def test_calls_of_other_tools_are_compared_by_name_and_arguments() -> None:
    expert = Action("", (ToolCall("open", {"path": "a.py", "line": 3}),))
    same = Action("", (ToolCall("open", {"line": 3, "path": "a.py"}),))
    other = Action("", (ToolCall("open", {"path": "b.py", "line": 3}),))
    assert set(VERIFY(expert, ParsedAction(same)).criteria.values()) == {1.0}
    assert VERIFY(expert, ParsedAction(other)).criteria["targets"] < 1
    assert VERIFY(expert, ParsedAction(bash("ls"))).criteria["kind"] == 0
    assert VERIFY(bash("ls"), ParsedAction(Action("", (ToolCall("bash", None),)))).criteria["name"]


SHELL_TEXT = (
    st.text(st.sampled_from(" \n'\"\\|&;<>()$`#-=/.{}!0129EOFacdefgnprst\ud800é")) | st.text()
)


@settings(max_examples=400)
@given(SHELL_TEXT, SHELL_TEXT)
def test_any_text_is_judged(expert: str, sampled: str) -> None:
    verdict = VERIFY(bash("cat a.py " + expert), ParsedAction(bash(sampled)))
    assert verdict.error is None
    swapped = VERIFY(bash("cat a.py " + sampled), ParsedAction(bash("cat a.py " + expert)))
    again = VERIFY(bash("cat a.py " + expert), ParsedAction(bash("cat a.py " + sampled)))
    assert again.criteria == swapped.criteria


@pytest.mark.parametrize(
    "piece",
    ["a ", "'", '"', "\\", "$(", "(", "|", ";", "\n", "<<E\n", "<<E ", "> ", "-a ", "x=1 ", "env ",
     "{ ", "1", "\ud800", "find -exec ", "cat f | ", "cd a;", "sed -n 1,2p|", "../", ")", "(a)",
     "cat <f;", ">f 2>&1 "],
)  # fmt: skip
def test_a_megabyte_is_judged(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    verdict = VERIFY(bash("cat a.py"), ParsedAction(bash(text)))
    assert verdict.error is None


def test_texts_that_differ_beyond_the_parsed_part_are_not_exact() -> None:
    head = "cat > f << 'EOF'\n" + "x = 1\n" * 4000
    found = scores(head + "a\nEOF", head + "b\nEOF")
    assert found["exact"] == found["content"] == 0
