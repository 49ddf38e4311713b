"""Trajectories that begin with the same turns, whatever their ids say."""

import dataclasses
from collections.abc import Iterable, Sequence

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.digests import prefix_digests
from pivotrl_jax.trajectories.schema import Trajectory


def check_leaks(train: Iterable[Trajectory], heldout: Iterable[Trajectory]) -> None:
    """Raises UserError when a trajectory of each part begins with the same turns.

    That is: with the same prompt (everything up to the first message of a user) and the same turn
    of the assistant after it, by content; ids, reasoning, text beside calls and white space at
    the ends are not looked at. It finds copies, rows cut from one trajectory, and runs that went
    the same way.
    """
    held = {key: each for each in heldout for key in _beginnings(each)}
    for each in train:
        other = next((held[key] for key in _beginnings(each) if key in held), None)
        if other is not None:
            raise UserError(
                f"{each.source} (trained on) and {other.source} (held out) begin with the same "
                f"turns: tasks {each.task_id!r} and {other.task_id!r} must stay together, so pass "
                "the trajectories through join_tasks before the split"
            )


def join_tasks(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectories, those that begin with the same turns under one task id.

    Also those that do so by way of others, so that no split by task can part them; the task id is
    the first of theirs in the alphabet.
    """
    parent: dict[str, str] = {each.task_id: each.task_id for each in trajectories}
    first: dict[bytes, str] = {}
    for each in trajectories:
        for key in _beginnings(each):
            one = _root(parent, each.task_id)
            other = _root(parent, first.setdefault(key, each.task_id))
            parent[max(one, other)] = min(one, other)
    return [dataclasses.replace(each, task_id=_root(parent, each.task_id)) for each in trajectories]


def _beginnings(trajectory: Trajectory) -> list[bytes]:
    """Digests of the trajectory up to and with each assistant turn after the prompt."""
    roles = [message.role for message in trajectory.messages]
    prompt = roles.index("user") if "user" in roles else 0
    digests = prefix_digests(trajectory.messages)
    return [digests[i] for i, role in enumerate(roles) if role == "assistant" and i > prompt]


def _root(parent: dict[str, str], task: str) -> str:
    while parent[task] != task:
        # Halving the path keeps later look-ups short.
        parent[task] = parent[parent[task]]
        task = parent[task]
    return task
