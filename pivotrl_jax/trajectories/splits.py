"""Train and held-out parts that never share a task."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Literal

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.schema import Candidate, Facts, Trajectory

Split = Literal["train", "heldout"]


def split(task_ids: Iterable[str], heldout_share: float, seed: int) -> dict[str, Split]:
    """The part of each task; ceil(heldout_share * tasks) of them, by seeded hash, are held out.

    Depends on the set of tasks only, not on their order. Raises UserError unless 0 < share < 1 and
    there are two tasks, so that neither part is empty.
    """
    tasks = sorted(set(task_ids), key=lambda task: _hash(task, seed))
    if not 0 < heldout_share < 1:
        raise UserError(f"the held-out share is {heldout_share}: give a number between 0 and 1")
    if len(tasks) < 2:
        raise UserError(
            f"{len(tasks)} task cannot be split into train and held out: "
            "read trajectories of at least two tasks"
        )
    heldout = min(math.ceil(heldout_share * len(tasks)), len(tasks) - 1)
    return {task: "heldout" if i < heldout else "train" for i, task in enumerate(tasks)}


def group(trajectory: Trajectory, by: str) -> str:
    """What is never split: the trajectory's task, or where `by` is not "task_id", that fact.

    The fact is the trajectory's own, or that of all its pivots. Raises UserError where there is no
    such one.
    """
    if by == "task_id":
        return trajectory.task_id
    shared = {**_shared(trajectory.pivots), **trajectory.facts}
    if by not in shared:
        raise UserError(
            f"{trajectory.source} states no one {by!r}, by which data.split_by wants to split: "
            f"use one of {', '.join(['task_id', *shared])}"
        )
    return str(shared[by])


def _shared(pivots: Mapping[int, Facts] | None) -> Facts:
    """The facts that all pivots state alike."""
    first, *others = (pivots or {}).values() or ({},)
    return {
        name: value
        for name, value in first.items()
        if all(name in facts and facts[name] == value for facts in others)
    }


def check_disjoint(candidates: Iterable[Candidate], trajectories: Iterable[Trajectory]) -> None:
    """Raises UserError when candidates of one task stand in both parts."""
    task_of = {trajectory.id: trajectory.task_id for trajectory in trajectories}
    part_of: dict[str, Split] = {}
    for candidate in candidates:
        task = task_of[candidate.trajectory_id]
        if part_of.setdefault(task, candidate.split) != candidate.split:
            raise UserError(
                f"task {task!r} of candidate {candidate.id!r} is both trained on and held out: "
                "split by task_id and build the candidates again"
            )


def _hash(task: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{task}".encode()).hexdigest()
