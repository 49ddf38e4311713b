"""Compiles the steps of a plan one after the other and measures what comes out."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import numpy as np

from experiments import flops
from experiments.plans.chips import Chip
from experiments.plans.measure import Memory, Work, memory, missing, refused, work
from experiments.plans.steps import Plan, Sampling, Training, bytes_per_device, pairs, seen_share
from pivotrl_jax.errors import UserError
from pivotrl_jax.training.memory import GIB, footprint, rows_per_device, saturating
from pivotrl_jax.trees import causal

NAMES = ("prefill", "decode", "score", "update")
USEFUL = saturating("tpu")
TURN = {
    "prefill": "engine.rows, engine.slots, train.sampling.max_tokens or text.trunk_tokens, or put "
    "more devices along mesh.tensor, mesh.expert or mesh.context",
    "decode": "engine.slots, engine.rows or train.sampling.max_tokens, or put more devices along "
    "mesh.tensor, mesh.expert or mesh.context",
    "score": "text.trunk_tokens or train.samples, or put more devices along mesh.tensor or "
    "mesh.context",
    "update": "text.trunk_tokens, train.samples or train.pivots_per_row, set train.remat=full, or "
    "put more devices along mesh.fsdp, mesh.expert, mesh.tensor or mesh.context",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A step as it compiled: `rows` per device at a time, `tokens` and `model_flops` of all
    devices, and how many `calls` a step of training has. One that the compiler refused has no
    `memory` and no `work`."""

    name: str
    rows: int
    tokens: int
    model_flops: float
    calls: int
    missing: float  # bytes of a device
    memory: Memory | None = None
    work: Work | None = None
    flops: float = 0.0  # by XLA, loops counted once, as are the bytes that are read and written
    accessed: float = 0.0

    def utilisation(self, chip: Chip, chips: int) -> float | None:
        """Model FLOPs over what the chips do at their peak in the estimated time."""
        if self.work is None or not self.work.seconds:
            return None
        return self.model_flops / (self.work.seconds * chips * chip.peak)

    def failure(self) -> str | None:
        """What a user is told of a step that does not fit."""
        if not self.missing:
            return None
        amount = f"{self.missing / GIB:.2f} GiB" if np.isfinite(self.missing) else "some GiB"
        return f"{self.name} lacks {amount} per device; lower {TURN[self.name]}"


@dataclasses.dataclass(frozen=True)
class Job:
    """A program to compile; `resident` are all arrays that lie on a device meanwhile."""

    name: str
    lower: Callable[[], jax.stages.Lowered]
    resident: Any
    seen: float
    rows: int
    tokens: int
    model_flops: float
    calls: int


def measure(
    plan: Plan, chip: Chip, names: Collection[str] = NAMES, rows: int | None = None
) -> Iterator[Measured]:
    """Prefill, one chunk of decoding, scoring of a micro-batch, update: all of a training step.

    `rows` per device make a micro-batch of the update; None: as many as a run takes.
    """
    training = Training(plan)
    with jax.sharding.use_abstract_mesh(plan.mesh.abstract_mesh):
        jobs = [*_sampling(plan, chip, training)] if {"prefill", "decode"} & {*names} else []
        for job in [*jobs, _score(plan, chip, training)]:
            if job.name in names:
                yield _measured(job, chip, _compiled(job.lower))
        if "update" in names:
            yield _update(plan, chip, training, rows)


def _compiled(lower: Callable[[], jax.stages.Lowered]) -> jax.stages.Compiled | str:
    """The program, or why the compiler refuses it: it exceeds the device."""
    try:
        return lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return str(error)


def _measured(job: Job, chip: Chip, found: jax.stages.Compiled | str) -> Measured:
    step = Measured(job.name, job.rows, job.tokens, job.model_flops, job.calls, missing=0.0)
    if isinstance(found, str):
        needed = refused(found)
        lacks = np.inf if needed is None else max(missing(needed, chip), 1.0)
        return dataclasses.replace(step, missing=lacks)
    own = memory(found, bytes_per_device(job.resident))
    counted = found.cost_analysis() or {}
    return dataclasses.replace(
        step,
        missing=missing(own.needed, chip),
        memory=own,
        work=work(found.as_text() or "", chip, job.seen),
        flops=counted.get("flops", 0.0),
        accessed=counted.get("bytes accessed", 0.0),
    )


def _sampling(plan: Plan, chip: Chip, training: Training) -> Iterator[Job]:
    """Prefill of one trunk per device along the rows' axes, and a chunk of decoding of all slots
    behind full trunks."""
    sampling = Sampling(plan)
    slots, layers = sampling.idle(), sampling.layers()
    resident = (training.state, training.reference, slots, layers)
    trunk = causal(np.zeros((1, sampling.length), np.int32))
    devices, share = (
        plan.devices_for_rows,
        seen_share(trunk, plan.cfg, chip.kind, plan.mesh.shape["context"]),
    )
    train, chunk = plan.settings.train, plan.settings.engine.chunk
    yield Job(
        "prefill", lambda: sampling.prefill(slots), resident, share, 1, devices * plan.history,
        flops.forward(plan.cfg, devices * plan.history, 0, devices * plan.history**2 / 2),
        -(-train.rows // devices),
    )  # fmt: skip
    rows, each = sampling.shape
    drawn = rows * each * chunk
    waves = -(-train.rows * train.pivots_per_row * train.samples // (rows * each))
    yield Job(
        "decode", lambda: sampling.decode(slots, layers), resident, share, rows // devices, drawn,
        flops.forward(plan.cfg, drawn, drawn, drawn * plan.history),
        waves * -(-plan.action // chunk),
    )  # fmt: skip


def _score(plan: Plan, chip: Chip, training: Training) -> Job:
    """Which an update with a frozen policy does inside."""
    tree = training.batch.tree
    rows = min(plan.devices_for_rows, tree.shape[0])
    first = jax.tree.map(lambda x: x[:rows], tree)
    return Job(
        "score",
        lambda: training.score(1),
        (training.state, training.reference),
        seen_share(tree, plan.cfg, chip.kind, plan.mesh.shape["context"]),
        1,
        int((first.segments >= 0).sum()),
        forward(plan, first, training.batch.weight[:rows]),
        0,
    )


def forward(plan: Plan, tree: Any, weight: np.ndarray) -> float:
    """Model FLOPs of a pass over the tokens that are no padding."""
    tokens = float((tree.segments >= 0).sum())
    return flops.forward(plan.cfg, tokens, float(weight.sum()), pairs(tree))


def _update(plan: Plan, chip: Chip, training: Training, rows: int | None) -> Measured:
    tree = training.batch.tree
    compiled: dict[int, jax.stages.Compiled | str] = {}

    def need(size: int) -> float:
        compiled[size] = found = _compiled(lambda: training.update(size))
        return np.inf if isinstance(found, str) else footprint(found)

    try:
        most = int(chip.memory * GIB)
        own = -(-tree.shape[1] // plan.mesh.shape["context"])
        size = rows or rows_per_device(training.rows, own, USEFUL, need, most)
    except UserError:
        size = 1
    if size not in compiled:
        need(size)
    passes = 4 if plan.settings.objective.kl_coef else 3
    job = Job(
        "update",
        lambda: training.update(size),
        (training.state, training.reference),
        seen_share(tree, plan.cfg, chip.kind, plan.mesh.shape["context"]),
        size,
        int((tree.segments >= 0).sum()),
        passes * forward(plan, tree, training.batch.weight),
        1,
    )
    return _measured(job, chip, compiled[size])
