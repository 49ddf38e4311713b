"""A small run as one of several processes, for test_hosts.py to compare and to interrupt.

The argument is JSON: `directory`, `coordinator`, `sizes`, `process`, `steps`; `hit`, the
[process, step] after which signal `how` comes. Every process writes what it saw of each step to
`log-<process>.jsonl`, and what the policy draws in the end.
"""

import dataclasses
import hashlib
import json
import os
import sys
import zlib
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import shapes
from pivotrl_jax.models.presets import SMOLLM2_135M, shrink
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import (
    MeshSettings,
    fetch,
    first,
    leave,
    make_mesh,
    put_rows,
    start,
)
from pivotrl_jax.pivots import Grading, Judging, Turn, rollouts, verdict_thread
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    OptimizerSettings,
    PivotStep,
    Step,
    Stopped,
    TrainSettings,
    TrainState,
    in_micro_batches,
    index_batches,
    make_optimizer,
    new_state,
    policy_update,
    run_steps,
    state_shardings,
)
from pivotrl_jax.trajectories import Action
from pivotrl_jax.verifiers import Verdict
from pivotrl_jax.verifiers.recipe import Recipe

CFG = shrink(SMOLLM2_135M, vocab=64, width=32, layers=2, kv_heads=2, head_dim=8, ffn=64)
# A large epsilon: dividing a gradient by its own size would turn its rounding into steps.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.05, eps=1e-2), 4)
SETTINGS = TrainSettings(
    rows=4,
    pivots_per_row=2,
    samples=4,
    row_multiple=64,
    remat="full",
    sampling=SamplingSettings(max_tokens=6),
)
ENGINE = EngineSettings(rows=4, slots=16, chunk=6, row_multiple=32)
TRUNKS = [np.random.default_rng(i).integers(1, 64, 20 + i).astype(np.int32) for i in range(8)]
TURNS = [
    [Turn(f"{i}.{at}", str(i), "swe", at, i, at, at + 4, Action()) for at in (3, 12)]
    for i in range(len(TRUNKS))
]


class Letters:
    """One letter a token, as far as a tokenizer is asked for here."""

    ends = (0,)

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(64 + token) for token in tokens)


class Plain:
    name = "plain"

    def parse(self, text: str) -> ParsedAction:
        return ParsedAction(Action(text))


@dataclasses.dataclass
class Even:
    """Accepts about every other text, and counts how often it was asked."""

    asked: int = 0
    name = "even"
    criteria = ("even",)

    def __call__(self, expert: Action, sampled: ParsedAction, context: Any = None) -> Verdict:
        self.asked += 1
        return Verdict({"even": float(zlib.crc32(sampled.action.text.encode()) % 2)}, "")


class NoBar:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


def random(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.Array:
    """The same in every process and on every mesh."""
    host = np.random.default_rng(leaf.shape).normal(0, 0.4, leaf.shape).astype(np.float32)
    return jax.make_array_from_callback(leaf.shape, sharding, host.__getitem__)


def digest(tree: Any) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(fetch(tree)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def sampled_step(layout: TrainState, mesh: Mesh, key: jax.Array, thread: Executor) -> Step:
    verifier = Even()
    grading = Grading(Plain(), verifier, Recipe("even", accept=(("even", 1.0),)), "fail")
    judging = Judging(Letters(), {"swe": grading})
    update = policy_update(
        CFG, OPTIMIZER, layout, PolicySettings(), SETTINGS.advantage, temperature=1.0, remat="full"
    )
    one = PivotStep(
        cfg=CFG,
        rows_of=lambda indices: [(i, TURNS[i]) for i in indices],
        trunks=TRUNKS,
        reference=None,
        update=in_micro_batches(update, mesh),
        judging=judging,
        settings=SETTINGS,
        engine=ENGINE,
        learning_rates=[0.05] * 4,
        key=key,
        mesh=mesh,
        thread=thread,
    )

    def step(state: TrainState, indices: np.ndarray, number: int):
        verifier.asked = 0
        state, metrics = one(state, indices, number)
        return state, {**metrics, "asked": verifier.asked}

    return step


def drawn(state: TrainState, mesh: Mesh, key: jax.Array) -> list[list[int]]:
    rows = [(i, TURNS[i]) for i in range(4)]
    parts = rollouts(
        state.params, CFG, rows, TRUNKS, 4, key, Letters(), SETTINGS.sampling, ENGINE, mesh
    )
    found = {
        turn.id: own for part in parts for turn, own in zip(part.turns, part.samples, strict=True)
    }
    return [sample.tokens.tolist() for name in sorted(found) for sample in found[name]]


def train(given: dict[str, Any], mesh: Mesh, thread: Executor) -> None:
    directory, process, key = Path(given["directory"]), given["process"], jax.random.key(3)
    layout = state_shardings(OPTIMIZER, CFG, mesh)
    state = new_state(jax.tree.map(random, shapes(CFG), layout.params), OPTIMIZER, layout)
    one = sampled_step(layout, mesh, key, thread)
    log = (directory / f"log-{process}.jsonl").open("a")

    def step(state: TrainState, indices: np.ndarray, number: int):
        state, metrics = one(state, indices, number)
        log.write(json.dumps({"step": number + 1, "state": digest(state), **metrics}) + "\n")
        log.flush()
        if [process, number + 1] == given["hit"]:
            os.kill(os.getpid(), given["how"])
        return state, metrics

    checkpointer, data = Checkpointer(directory / "checkpoints"), index_batches([1] * 8, 4, seed=5)
    restored = checkpointer.latest()
    if restored is not None:
        state, position = checkpointer.restore(state)
        data.set_state(position)
    with MetricWriter(directory, restored) as writer:
        state = run_steps(
            step, state, steps=given["steps"], data=data, checkpointer=checkpointer,
            save_every=2, writer=writer, bar=NoBar(), note=lambda metrics: "",
        )  # fmt: skip
    (directory / f"drawn-{process}.json").write_text(json.dumps(drawn(state, mesh, key)))


def main(given: dict[str, Any]) -> None:
    cache = Path(__file__).parents[2] / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    try:
        start(given["coordinator"], given["sizes"][given["process"]], given["process"], patience=20)
        mesh = make_mesh(MeshSettings())
        with jax.set_mesh(mesh), verdict_thread() as thread:
            # On CPU, devices that exchange for the first time wait for each other 30 s only, which
            # is less than compiling a step takes on a busy machine.
            fetch(put_rows(np.zeros(4), mesh).sum())
            train(given, mesh, thread)
    except Stopped as stopped:
        if first():
            print(stopped)
        sys.exit(143)
    except Exception as error:
        leave(error, str(error) if isinstance(error, UserError) else None)
        raise


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
