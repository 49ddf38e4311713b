"""A work directory with every artifact, in the schema of the stages; and a small model to run."""

import collections
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import episodes
from pivotrl_jax.models import huggingface, init
from pivotrl_jax.models.presets import shrink
from pivotrl_jax.models.pretrained import DEFAULT, resolve

K = 8
CONFIG = {
    "preset": "laptop",
    "config": {
        "model": {"name": "SmolLM2-135M-Instruct", "dtype": "float32"},
        "profile": {"samples": K, "temperature": 1.0, "top_p": 1.0},
        "select": {"threshold": 0.6},
    },
    "seed": 0,
    "versions": {"python": "3.11.2", "jax": "0.10.2", "flax": "0.12.8"},
    "device": "cpu",
    "cpu_count": 2,
    "command": "python -m experiments.run --config=experiments/swe.py:laptop",
}
TASKS = ["pydicom__pydicom-1413", "marshmallow-code__marshmallow-1343", "django__django-11099"]
COMMANDS = [
    'grep -n "def to_json_dict" /testbed/pydicom/dataset.py',
    "sed -n '2450,2510p' /testbed/pydicom/dataset.py",
    "ls -la /testbed/",
    'find /testbed -type f -name "*.py" | grep -E "(dataset|values)" | head -20',
    "cd /testbed && python -m pytest pydicom/tests/test_json.py -q",
    "cat > /tmp/fix.py <<'EOF'\nimport re\nprint(re.escape('2.0'))\nEOF\npython /tmp/fix.py",
    "git -C /testbed diff --stat",
]
STAGES = {
    "read": (3.1, 410, 0), "candidates": (21.4, 705, 402_113), "sft": (402.0, 2910, 611_300),
    "profile": (521.7, 3104, 498_020), "select": (0.4, 3104, 0), "train": (588.2, 3377, 702_144),
    "evaluate": (161.9, 3377, 188_240),
}  # fmt: skip


def action(command: str) -> str:
    return f"I will look at this next.\n\n```bash\n{command}\n```"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def status_of(rewards: list[float]) -> str:
    if len(rewards) < 4:
        return "too_few"
    if min(rewards) == max(rewards):
        return "all_pass" if rewards[0] else "all_fail"
    return "pivot" if np.mean(rewards) < 0.6 else "too_easy"


def wilson(mean: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Middle and half width of the score interval of a pass rate."""
    scale = 1 + z * z / n
    half = z * np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / scale
    return (mean + z * z / (2 * n)) / scale, float(half)


def sample(candidate_id: str, index: int, passes: bool, rng: np.random.Generator) -> dict:
    malformed, failed = not passes and rng.random() < 0.15, rng.random() < 0.01
    command = COMMANDS[rng.integers(len(COMMANDS))]
    criteria = {"program": 1.0, "target": float(passes), "similarity": 0.95 if passes else 0.31}
    return {
        "candidate_id": candidate_id,
        "sample": index,
        "tokens": [1, 2, 3],
        "text": command if malformed else action(command),
        "length": int(rng.integers(18, 90)),
        "drafted": int(rng.integers(5)),
        "truncated": bool(rng.random() < 0.03),
        "malformed": bool(malformed),
        "logp": -12.5,
        "criteria": "{}" if failed or malformed else json.dumps(criteria),
        "reason": "no fenced command" if malformed else "similarity 0.31, another file",
        "error": "command is not valid shell" if failed else None,
        "reward": None if failed else float(passes),
    }


def candidate_rows(index: int, rng: np.random.Generator) -> tuple[dict, dict, list[dict]]:
    """The row of the select table, the texts and the samples of one training candidate."""
    task, turn = TASKS[index % len(TASKS)], index // len(TASKS)
    name = f"{task}:{turn}"
    chance = rng.choice([0.0, 0.0, 0.0, 1.0, 0.15, 0.4, 0.85])
    drawn = [sample(name, k, bool(rng.random() < chance), rng) for k in range(K)]
    rewards = [row["reward"] for row in drawn if row["error"] is None]
    middle, half = wilson(float(np.mean(rewards)), len(rewards))
    table = {
        "candidate_id": name,
        "trajectory_id": task,
        "domain": "swe",
        "turn": turn,
        "n": len(rewards),
        "mean": float(np.mean(rewards)),
        "variance": float(np.var(rewards)),
        "wilson_low": middle - half,
        "wilson_high": middle + half,
        "status": status_of(rewards),
    }
    history = [
        {"role": "system", "content": "You can interact with a computer shell."},
        {"role": "user", "content": "Dataset.to_json_dict can still generate exceptions. " * 4},
        {"role": "assistant", "content": action(COMMANDS[index % len(COMMANDS)])},
        {"role": "tool", "content": "<returncode>0</returncode>\n<output>\n2460\n</output>"},
    ]
    expert = action(COMMANDS[(index + 1) % len(COMMANDS)])
    return table, {"candidate_id": name, "history": history, "expert": expert}, drawn


def write_profile(workdir: Path, number: int, rng: np.random.Generator) -> list[dict]:
    tables, texts, samples = zip(
        *(candidate_rows(index, rng) for index in range(number)), strict=True
    )
    write_lines(workdir / "candidates/candidates_text.jsonl", list(texts))
    half = number // 2
    for chunk, groups in enumerate((samples[:half], samples[half:])):
        path = workdir / f"profile/train/samples-{chunk:05d}.parquet"
        write_table(path, [row for group in groups for row in group])
    write_table(workdir / "select/table.parquet", list(tables))
    return list(tables)


def train_row(step: int, rng: np.random.Generator) -> dict:
    rise = 1 - np.exp(-step / 40)
    noise = rng.normal(0, 1, 8)
    values = {
        "reward_mean": 0.31 + 0.14 * rise + 0.04 * noise[0],
        "reward_std": 0.33 - 0.05 * rise + 0.02 * noise[1],
        "mixed_share": np.clip(0.72 - 0.18 * rise + 0.06 * noise[2], 0, 1),
        "kl": abs(0.011 * rise + 0.001 * noise[3]),
        "entropy": 0.82 - 0.11 * rise + 0.02 * noise[4],
        "malformed_share": abs(0.06 - 0.04 * rise + 0.01 * noise[5]),
        "truncated_share": abs(0.03 + 0.006 * noise[6]),
        "logp_gap": abs(3e-6 + 4e-7 * noise[7]),
        "tokens_per_second": 1180 + 40 * noise[1],
        "loss": 0.01 * noise[2], "grad_norm": 0.8, "clip_share": 0.01, "ratio_max": 1.2,
        "action_tokens": 2100.0, "lr": 1e-6,
    }  # fmt: skip
    return {"step": step, "seconds": 4.9, **{name: float(value) for name, value in values.items()}}


def write_policies(workdir: Path) -> None:
    rewards = {"base": (0.214, 0.171), "sft": (0.402, 0.297), "pivotrl": (0.433, 0.346)}
    perplexities = {"base": (18.91, 3.42), "sft": (20.87, 3.71), "pivotrl": (20.95, 3.70)}
    for name, (every, pivots) in rewards.items():
        entries = {
            key: {"mean": mean, "low": mean - 0.041, "high": mean + 0.044, "n_candidates": size,
                  "n_trajectories": 14}
            for key, mean, size in (("heldout", every, 148), ("heldout_pivots", pivots, 37))
        }  # fmt: skip
        texts = dict(zip(("gsm8k", "humaneval"), perplexities[name], strict=True))
        write_json(
            workdir / f"evaluate/{name}.json",
            {
                "policy": name,
                **entries,
                "perplexity": {
                    key: {"nll": float(np.log(value)), "perplexity": value, "tokens": 4096}
                    for key, value in texts.items()
                },
                "malformed_share": 0.034,
                "truncated_share": 0.012,
                "error_share": 0.004,
            },
        )


def write_run(workdir: Path, candidates: int = 60, steps: int = 50) -> list[dict]:
    """Write every artifact; returns the rows of the select table."""
    rng = np.random.default_rng(0)
    write_json(workdir / "config.json", CONFIG)
    write_json(
        workdir / "read/audit.json",
        {"lines": 75, "read": 72, "quarantined": 3, "reasons": {"not_utf8": 1, "no_messages": 2}},
    )
    write_json(
        workdir / "candidates/audit.json",
        {
            "turns": 4766, "candidates": candidates + 148,
            "by_split": {"train": candidates, "heldout": 148},
            "left_out": {"history_too_long": 4009, "failed_tool_call": 4618 - 4009 - candidates},
            "clipped_tokens": 918_233, "trunks": 72,
            "trunk_tokens": 131_402, "flat_tokens": 525_608,
        },
    )  # fmt: skip
    tables = write_profile(workdir, candidates, rng)
    status = collections.Counter(row["status"] for row in tables)
    write_json(
        workdir / "select/audit.json",
        {"settings": {"swe": {"threshold": 0.6}}, "status": status, "selected": status["pivot"]},
    )
    sft = [{"step": i, "seconds": 6.7, "loss": 0.4 + 1.6 * float(np.exp(-i / 9)),
            "accuracy": 0.9 - 0.35 * float(np.exp(-i / 12)), "tokens_per_second": 1500.0,
            "grad_norm": 1.0, "lr": 1e-4} for i in range(steps)]  # fmt: skip
    write_lines(workdir / "sft/metrics.jsonl", sft)
    write_lines(workdir / "train/metrics.jsonl", [train_row(step, rng) for step in range(steps)])
    write_policies(workdir)
    timing = [
        {"stage": stage, "seconds": seconds, "peak_rss_mb": memory, "tokens": tokens}
        for stage, (seconds, memory, tokens) in STAGES.items()
    ]
    write_lines(workdir / "timing.jsonl", timing)
    return tables


def write_played(
    path: Path,
    policy: str,
    wins: dict[str, list[int]],
    answers: dict[str, int],
    sampled: dict[str, list[int]] | None = None,
) -> None:
    """A finished run of a study with these greedy (and sampled) wins of groups' tasks, and answers
    to questions, whose suite is their first letter."""
    evaluate = path / "evaluate"
    blank = dict.fromkeys(("turns", "tokens", "malformed", "invalid", "sample"), 1)
    rows = [
        {**blank, "task": f"{group}{i}", "group": group, "mode": mode, "ending": "done",
         "score": float(won)}
        for mode, played in (("greedy", wins), ("sampled", sampled or {}))
        for group, own in played.items()
        for i, won in enumerate(own)
    ]  # fmt: skip
    evaluate.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, episodes.SCHEMA)
    pq.write_table(table, evaluate / f"{policy}_episodes.parquet")
    asked = [{"suite": q[0], "question_id": q, "score": float(s)} for q, s in answers.items()]
    if asked:
        write_table(evaluate / f"{policy}_suites.parquet", asked)
    suites = {name: [row["score"] for row in asked if row["suite"] == name] for name in "abx"}
    means = {name: float(np.mean(own)) for name, own in suites.items() if own}
    scores = {
        "heldout": {"mean": 0.5},
        "episodes": episodes.episode_scores(table, 0),
        "suites": {
            name: {"mean": mean}
            for name, mean in (means | {"mean": float(np.mean([*means.values()]))}).items()
        } if means else {},
    }  # fmt: skip
    write_json(evaluate / f"{policy}.json", scores)
    stages = {"profile": 3.0, "train": 7.0, "evaluate_base": 99.0}
    write_lines(
        path / "timing.jsonl",
        [{"stage": name, "seconds": n, "tokens": 50} for name, n in stages.items()],
    )
    config = {
        "train": {"samples": 8}, "objective": {"kl_coef": 0.001}, "profile": {"samples_from": None},
    }  # fmt: skip
    described = {"parameters": 1000, "multiplied": {"body": 1000, "head": 10}}
    write_json(path / "config.json", {"config": config} | described)
    write_json(path / "profile/train/manifest.json", {"policy": "the base"})
    write_json(path / "done/summary", {})


@pytest.fixture(scope="session")
def play() -> Callable[..., None]:
    return write_played


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with its tokenizer and vocabulary, but narrow, random and of three layers."""
    full = resolve(DEFAULT)
    cfg = shrink(
        full.cfg, vocab=full.cfg.vocab, width=48, layers=3, kv_heads=1, head_dim=16, ffn=96
    )
    directory = tmp_path_factory.mktemp("small_model")
    params = init(jax.random.key(0), cfg)
    huggingface.save(directory, params, cfg, full.tokenizer_files, full.tokenizer.eot)
    return directory
