"""Whatever a row holds, a reader returns a trajectory or names a reason; nothing else escapes."""

import copy
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import EVERY_TURN, Trajectory, candidates, check_leaks, fold
from pivotrl_jax.trajectories.formats import FORMATS, detect
from pivotrl_jax.trajectories.nemo_gym_rows import RowSettings, pivot_row
from pivotrl_jax.trajectories.nemo_gym_rules import validate
from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.writers import write_openai_chat

Rows = Callable[[str], list[dict[str, Any]]]
SOURCES = {
    "mini_swe_agent": "swe/swebench_mini_swe_agent_deepseek",
    "swe_agent": "swe/sweagent_demonstrations",
    "openai_chat": "tool_use/tau2_sft_v1_small",
    "tau2": "tool_use/tau2_success",
    "api_bank": "tool_use/apibank_dialogues",
    "bfcl": "tool_use/bfcl_single_turn",
    "bfcl multi": "tool_use/bfcl_multi_turn",
    "terminus": "terminal/openthoughts_terminus2_trajectories",
    "fireact": "search/fireact_gpt4_react",
    "webdancer": "search/webdancer_sample_traj",
    "nemo_gym_pivot": "nemo_gym_tool_pivot_examples",
    "nemo_gym_pivot batch": "nemo_gym_tool_pivot_parallel_examples",
    "nemo_gym_pivot text": "nemo_gym_terminus_judge_examples",
    "nemo_gym_rollout": "nemo_gym_rollouts",
}
JUNK: list[Any] = [
    None, True, 0, -1.5, float("nan"), 10**400, "", "\ud800", "\x00", "{", "[[]]", "a" * 100_000,
    [], {}, [None], ["x"], [[1]], {"a": {"b": [1]}}, {"type": "message"}, "</think>", "<tool_call>",
    "\nAction: search[", "<returncode>" + "9" * 5000 + "</returncode>", json.dumps([[]] * 3),
]  # fmt: skip


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


def mutated(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row with up to three of its values replaced, at any depth, or keys taken out."""
    row = copy.deepcopy(row)
    for _ in range(rng.randint(1, 3)):
        node: Any = row
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
                node = node[key]
                continue
            if rng.random() < 0.2:
                del node[key]
            else:
                node[key] = rng.choice([*JUNK, deep(100)])
            break
    return row


def use(found: Trajectory, path: Path) -> None:
    """Everything that a later stage does with a trajectory, whatever it holds."""
    (folded, *_), _ = fold([found, dataclasses.replace(found, id="other")])
    own, _ = candidates(folded, EVERY_TURN, "train")
    for candidate in own[:3]:
        row = pivot_row(folded, candidate.message, RowSettings(calls="batch"))
        validate(json.loads(json.dumps(row)), batches=True)
    check_leaks([found], [])
    # Lone surrogates never come out of a file: `read` refuses them.
    if "\\ud800" not in json.dumps(dataclasses.asdict(folded)):
        write_openai_chat([folded], path)


@pytest.mark.parametrize("kind", SOURCES)
def test_mutated_rows(kind: str, carried: Rows, tmp_path: Path) -> None:
    rng = random.Random(kind)
    rows = carried(SOURCES[kind])[:20]
    outcomes: Counter[str] = Counter()
    for _ in range(150):
        row = mutated(rng.choice(rows), rng)
        for name in {kind.partition(" ")[0], *_detected(row)}:
            try:
                use(FORMATS[name](row, "a.jsonl:1"), tmp_path / "chat.jsonl")
                outcomes["read"] += 1
            except BadRow as problem:
                outcomes[str(problem)] += 1
    assert outcomes["read"] > 10
    assert len(outcomes) > 2


def _detected(row: dict[str, Any]) -> set[str]:
    try:
        return {detect(row)}
    except BadRow:
        return set()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row", [{}, {"messages": 3}, {"messages": [{}]}, {"events": {"a": 1}}])
def test_rows_of_nothing(name: str, row: dict[str, Any]) -> None:
    with pytest.raises(BadRow):
        FORMATS[name](row, "a.jsonl:1")
