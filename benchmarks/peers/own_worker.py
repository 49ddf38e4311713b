"""pivotrl_jax on one job, in a process of its own so that its memory is its own.

python -m benchmarks.peers.own_worker JOB.json RESULT.json
"""

import json
import resource
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.context import use_compilation_cache
from kernels.grpo import AdvantageSettings
from pivotrl_jax.models.pretrained import resolve
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.pivots import Rollouts, Row, Turn, joined, plan, rollouts
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.training import (
    OptimizerSettings,
    PolicyBatch,
    in_micro_batches,
    make_optimizer,
    new_state,
    policy_batch,
    policy_update,
    state_shardings,
)
from pivotrl_jax.trajectories import Action

MULTIPLE = 256


def turns(job: Mapping[str, Any]) -> list[Turn]:
    return [
        Turn(str(i), str(trunk), "peer", i, trunk, start, end, Action())
        for i, (trunk, start, end) in enumerate(job["turns"])
    ]


def batch(rows: list[Row], trunks: list[np.ndarray], rollout: Rollouts) -> PolicyBatch:
    """Every other sample is a success: what is learnt does not matter here."""
    shape = (len(rollout.turns), len(rollout.samples[0]))
    reward_PK = np.broadcast_to(np.arange(shape[1]) % 2, shape).astype(np.float32)
    valid_PK = np.ones(shape, bool)
    return policy_batch(
        rows, trunks, rollout, reward_PK, valid_PK, ~valid_PK,
        pivots=max(len(part) for _, part in rows), multiple=MULTIPLE,
    )  # fmt: skip


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    model = resolve(job["model"])
    cap, samples = job["max_tokens"], job["samples"]
    trunks = [np.array(trunk, np.int32) for trunk in job["trunks"]]
    rows = plan(turns(job))
    optimizer = make_optimizer(OptimizerSettings(job["learning_rate"]), job["steps"])
    layout = state_shardings(optimizer, model.cfg, mesh)
    state = new_state(model.load(layout.params), optimizer, layout)
    update = policy_update(
        model.cfg, optimizer, layout, PolicySettings(kl_coef=0.0), AdvantageSettings(),
        temperature=1.0, remat="full",
    )  # fmt: skip
    step = in_micro_batches(update, mesh)
    sampling = SamplingSettings(max_tokens=cap)
    place = {trunk: number for number, (trunk, _) in enumerate(rows)}
    seconds: dict[str, list[float]] = {"sampling": [], "update": []}
    for number in range(job["steps"]):
        began = time.perf_counter()
        parts = rollouts(
            state.params, model.cfg, rows, trunks, samples, jax.random.key(number),
            model.tokenizer, sampling, EngineSettings(), mesh,
        )  # fmt: skip
        rollout = joined(sorted(parts, key=lambda part: place[part.turns[0].trunk]))
        sampled = time.perf_counter()
        own = batch(rows, trunks, rollout)
        state, _ = jax.block_until_ready(step(state, None, own))
        seconds["sampling"].append(sampled - began)
        seconds["update"].append(time.perf_counter() - sampled)
    lengths = [len(sample.tokens) for group in rollout.samples for sample in group]
    return {
        "seconds_sampling": seconds["sampling"][1:],
        "seconds_update": seconds["update"][1:],
        "prompt_tokens": sum(start for _, start, _ in job["turns"]),
        "action_tokens": float(np.mean(lengths)),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "version": version("jax"),
    }


if __name__ == "__main__":
    use_compilation_cache()
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_DATA, (asked["memory_bytes"],) * 2)
    with jax.set_mesh(make_mesh(MeshSettings(), jax.devices()[:1])):
        found = measure(asked)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
