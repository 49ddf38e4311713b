"""A small training run in a process of its own, for test_loop.py to interrupt.

Arguments: directory, step to stop at (0: none) and the signal to stop with. Prints a hash of the
final state.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from pivotrl_jax.models import init
from pivotrl_jax.models.presets import SMOLLM2_135M, shrink
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    OptimizerSettings,
    Stopped,
    TrainState,
    in_micro_batches,
    index_batches,
    make_optimizer,
    new_state,
    run_steps,
    state_shardings,
    supervised_batch,
    supervised_update,
)

STEPS, SAVE_EVERY = 8, 3
CFG = shrink(SMOLLM2_135M, vocab=256, width=48, layers=2, kv_heads=2, head_dim=16, ffn=96)
CORPUS = Path(__file__).parent.parent / "text" / "data" / "mini_swe_agent.json"


class NoBar:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


def make_step(mesh, layout: TrainState, optimizer, stop_at: int, how: int):
    text = np.frombuffer(CORPUS.read_bytes()[: 10 * 60], np.uint8).reshape(10, 60)
    update = in_micro_batches(supervised_update(CFG, optimizer, layout, "full"), mesh)

    def step(state: TrainState, indices: np.ndarray, number: int):
        examples = [(text[i], [(20, 60)]) for i in indices]
        batch = supervised_batch(examples, multiple=64)
        state, metrics = update(state, batch)
        if number + 1 == stop_at and how == signal.SIGTERM:
            os.kill(os.getpid(), how)
        return state, {name: float(x) for name, x in jax.device_get(metrics).items()}

    return step


def digest(state: TrainState, data) -> str:
    found = hashlib.sha256(repr(data.get_state()).encode())
    for leaf in jax.tree.leaves(jax.device_get(state)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def main(directory: Path, stop_at: int, how: int) -> None:
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerSettings(1e-2, warmup_steps=2, schedule="cosine"), STEPS)
    layout = state_shardings(optimizer, CFG, mesh)
    params = jax.jit(init, static_argnums=1, out_shardings=layout.params)(jax.random.key(0), CFG)
    state = new_state(params, optimizer, layout)
    checkpointer = Checkpointer(directory / "checkpoints")
    data = index_batches([1] * 10, 4, seed=5)
    restored = checkpointer.latest()
    if restored is not None:
        state, position = checkpointer.restore(state)
        data.set_state(position)
    done = restored or 0

    def note(metrics) -> str:
        nonlocal done
        done += 1
        # The line of this step is written, its checkpoint is not.
        if done == stop_at and how == signal.SIGKILL:
            os.kill(os.getpid(), how)
        return ""

    with MetricWriter(directory, restored) as writer:
        state = run_steps(
            make_step(mesh, layout, optimizer, stop_at, how),
            state,
            steps=STEPS,
            data=data,
            checkpointer=checkpointer,
            save_every=SAVE_EVERY,
            writer=writer,
            bar=NoBar(),
            note=note,
        )
    print(digest(state, data))


if __name__ == "__main__":
    cache = Path(__file__).parent.parent.parent / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except Stopped as stopped:
        print(stopped)
