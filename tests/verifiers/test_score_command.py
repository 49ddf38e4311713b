"""`python -m pivotrl_jax.verifiers score`, run as users run it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.rows import expert_turn, sampled_action
from pivotrl_jax.verifiers.scoring import scorer

DATA = Path(__file__).parent / "compatible" / "data" / "nemo_gym_rollouts.jsonl.gz"
RECORDS = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]
TOOL_ARGS = [record for record in RECORDS if record["verifier"] == "tool_args"]
LINES = [json.dumps({key: record[key] for key in ("id", "row", "output")}) for record in TOOL_ARGS]


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pivotrl_jax.verifiers", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)


def score(lines: list[str], *arguments: str) -> list[dict[str, Any]]:
    done = run("score", *arguments, "-", "-", given="\n".join(lines))
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


COMPATIBLE = ("--verifier", "tool_args", "--mode", "compatible")


PACK = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_files_are_scored_as_upstream_recorded(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.jsonl"
    content = "\n".join([*LINES, "", ""]).encode()
    source.write_bytes(PACK[suffix](content))
    assert run("score", *COMPATIBLE, str(source), str(target)).returncode == 0
    results = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(each["id"], each["reward"]) for each in results] == [
        (record["id"], record["reward"]) for record in TOOL_ARGS
    ]
    assert set(results[0]) == {"id", "reward", "reason", "criteria"}


BATCH = {
    "id": 7,
    "row": {
        "expected_action": {
            "type": "function_call_batch",
            "calls": [
                {"type": "function_call", "name": "weather", "arguments": '{"city": "Paris"}'},
                {"type": "function_call", "name": "weather", "arguments": '{"city": "Rome"}'},
            ],
        }
    },
    "output": [{"type": "function_call", "name": "weather", "arguments": '{"city": "Rome"}'}],
}


def test_a_line_has_options_of_its_own() -> None:
    graded = {
        "parallel_tool_call_rewarding": True,
        "allow_subset": True,
        "parallel_tool_call_reward_mode": "f1",
    }
    lines = [json.dumps(BATCH), json.dumps({**BATCH, "config": graded})]
    plain, own = score(lines, *COMPATIBLE)
    assert plain["reward"] == 0
    assert own["reward"] == pytest.approx(2 / 3)


def words(config: Any = None) -> str:
    call = {"type": "function_call", "name": "say", "arguments": '{"text": "one two three"}'}
    other = {**call, "arguments": '{"text": "one five six"}'}
    line = {"id": "words", "row": {"expected_action": call}, "output": [other]}
    return json.dumps(line if config is None else {**line, "config": config})


def test_the_threshold_is_a_default_for_lines_without_their_own() -> None:
    own = words({"word_count_similarity_threshold": 0.1})
    rewards = [line["reward"] for line in score([words(), own], *COMPATIBLE, "--threshold", "0.2")]
    assert rewards == [0.0, 1.0]


BAD = [
    ("not json", None, "line 2: not JSON"),
    ("[1]", None, "line 2: not an object"),
    ("{}", None, "line 2: field 'id' is missing"),
    ('{"id": 5, "output": []}', 5, "line 2: field 'row' is missing"),
    ('{"id": 5, "row": {}}', 5, "line 2: field 'output' is missing"),
    ('{"id": 5, "row": [], "output": []}', 5, "line 2: field 'row' is not an object"),
    ('{"id": 5, "row": {}, "output": []}', 5, "line 2: row.expected_action is missing"),
    ('{"id": 5, "row": {}, "output": [], "config": {"x": 1}}', 5, "line 2: config has no option"),
    ("[" * 100_000, None, "line 2: not JSON"),
    ('{"id": "\\ud800", "row": {}, "output": []}', "\ud800", "line 2: row.expected_action"),
]


@pytest.mark.parametrize(("line", "identity", "error"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_an_error_and_the_run_goes_on(line: str, identity: Any, error: str) -> None:
    first, bad, last = score([LINES[0], line, LINES[1]], *COMPATIBLE)
    assert set(bad) == {"id", "error"}
    assert bad["id"] == identity
    assert bad["error"].startswith(error)
    assert (first["reward"], last["reward"]) == (1.0, 1.0)


def test_bytes_that_are_no_utf8_are_an_error(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"id": "\xff"}\n' + LINES[0].encode())
    done = run("score", *COMPATIBLE, str(source), "-")
    bad, good = map(json.loads, done.stdout.splitlines())
    assert bad == {"id": None, "error": "line 1: not UTF-8: write the file as UTF-8"}
    assert good["reward"] == 1


def command(text: str) -> dict[str, Any]:
    arguments = json.dumps({"command": text})
    return {"type": "function_call", "name": "bash", "arguments": arguments}


def test_strict_verifiers() -> None:
    sampled = ["ls  -al /src", "rm -r /src", "ls -la /src/lib"]
    row = {"expected_action": command("ls -la /src")}
    lines = [json.dumps({"id": text, "row": row, "output": [command(text)]}) for text in sampled]
    results = score(lines, "--verifier", "command")
    assert [line["reward"] for line in results] == [1.0, 0.0, 0.0]
    assert results[0]["criteria"]["exact"] == 1
    assert [line["reward"] for line in score(lines, "--verifier", "tool_name")] == [1.0] * 3


@pytest.mark.parametrize("config", [None, {}, {"word_count_similarity_threshold": 0.1}])
def test_strict_verifiers_read_no_options(config: Any) -> None:
    row = {"expected_action": command("ls")}
    line = {"id": 1, "row": row, "output": [command("ls")], "config": config}
    [result] = score([json.dumps(line)], "--verifier", "command")
    assert result["reward"] == 1


def test_a_config_of_null_is_none() -> None:
    line = {**json.loads(words()), "config": None}
    assert [each["reward"] for each in score([json.dumps(line)], *COMPATIBLE)] == [1.0]


def terminus_line(typed: str, **more: Any) -> dict[str, Any]:
    texts = [json.dumps({"analysis": "", "plan": "", "commands": [{"keystrokes": keys}]})
             for keys in ("cat /app/source.py\n", typed)]  # fmt: skip
    content = [{"type": "output_text", "text": texts[1], "annotations": []}]
    row = {"expected_answer": texts[0], "metadata": {"harness": "terminus_2"}}
    output = [{"type": "message", "role": "assistant", "content": content}]
    return {"id": typed, "row": row, "output": output, **more}


TYPED = ["cat /app/source.py\n", "cat /app/sources.py\n", "cat /app/s.py\n", "rm -rf /\n"]


@pytest.mark.parametrize(
    ("options", "rewards"),
    [((), [1, 1, 0, 0]), (("--threshold", "0.99"), [1, 0, 0, 0]),
     (("--threshold", "0.8"), [1, 1, 1, 0])],
)  # fmt: skip
def test_terminus_compares_strings_without_a_judge(options: tuple[str, ...], rewards: Any) -> None:
    lines = [json.dumps(terminus_line(typed)) for typed in TYPED]
    found = score(lines, "--verifier", "terminus", "--mode", "compatible", *options)
    assert [each["reward"] for each in found] == rewards


def test_terminus_scores_as_in_a_run() -> None:
    run, alone = verifier("terminus"), scorer("terminus", "compatible")
    for line in map(terminus_line, TYPED):
        expert, context = expert_turn(line["row"])
        verdict = run(expert, sampled_action(line["output"]), context)
        assert verdict.criteria["reward"] == alone(line["row"], line["output"], {}).reward


def test_a_config_of_terminus_changes_upstreams_defaults() -> None:
    config = {"enable_llm_judge": False, "judge_model_server": {"name": "x"}}
    [found] = score([json.dumps(terminus_line("rm -rf /\n", config=config))],
                    "--verifier", "terminus", "--mode", "compatible")  # fmt: skip
    assert found["reward"] == 1  # neither compared by upstream


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--verifier", "tool_arg", "--mode", "compatible"), "did you mean 'tool_args'"),
        (("--verifier", "comand"), "no strict verifier 'comand'"),
        (("--verifier", "tool_name", "--threshold", "0.5"), "'tool_name' accepts by no similarity"),
        (("--verifier", "sql"), "--databases"),
        (
            ("--verifier", "sql", "--databases", "no/such"),
            "or --databases on the command line",
        ),
        ((*COMPATIBLE, "missing.jsonl.zst", "-"), "missing.jsonl.zst cannot be read"),
        ((*COMPATIBLE, "--threshold", "nan"), "'nan' is no finite number"),
        ((*COMPATIBLE, "--threshold", "high"), "'high' is no finite number"),
        (("--verifier", "tool_args", "--mode", "lenient"), "invalid choice: 'lenient'"),
        ((), "--verifier"),
        ((*COMPATIBLE, "missing.jsonl", "-"), "missing.jsonl cannot be opened"),
        ((*COMPATIBLE, "-", "no/such/place.jsonl"), "no/such/place.jsonl cannot be opened"),
    ],
)
def test_bad_usage_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    files = () if "-" in arguments else ("-", "-")
    done = run("score", *arguments, *files)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(LINES[0])
    done = run("score", *COMPATIBLE, str(source), str(source))
    assert (done.returncode, source.read_text()) == (2, LINES[0])


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_broken_archive_is_told_after_its_good_lines(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    random = Random(0)
    varied = "\n".join(f"{line[:-1]}, \"n\": {random.random()}}}"
                       for i in range(200) for line in LINES)  # fmt: skip
    source.write_bytes(PACK[suffix](varied.encode())[:-300])
    done = run("score", *COMPATIBLE, str(source), "-")
    assert done.returncode == 2
    assert "breaks off in line" in done.stderr
    assert len(done.stdout.splitlines()) > 100


def test_jax_is_not_imported() -> None:
    code = "import sys, pivotrl_jax.verifiers.__main__; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
