"""What a file could not hold of the trajectories that were written to it."""

from collections import Counter
from collections.abc import Iterable

from pivotrl_jax.trajectories.responses import to_tools
from pivotrl_jax.trajectories.schema import Trajectory

MESSAGE_FIELDS = ("role", "content", "calls", "reasoning", "failed", "answers")
FIELDS = ("task_id", "domain", "reward")


def losses(originals: Iterable[Trajectory], copies: Iterable[Trajectory]) -> Counter[str]:
    """What the copies that were read back lack, by name: fields, messages, facts, candidates.

    Trajectories are matched by id. Facts are those known at each turn that both may train on.
    """
    by_id = {copy.id: copy for copy in copies}
    lost: Counter[str] = Counter()
    for original in originals:
        copy = by_id.get(original.id)
        if copy is None:
            lost["trajectories"] += 1
            continue
        lost.update(name for name in FIELDS if getattr(copy, name) != getattr(original, name))
        lost["tools"] += to_tools(copy.tools) != to_tools(original.tools)
        lost["messages"] += max(0, len(original.messages) - len(copy.messages))
        lost += _in_messages(original, copy) + _in_turns(original, copy)
    return +lost


def _in_messages(original: Trajectory, copy: Trajectory) -> Counter[str]:
    return Counter(
        f"{name} of a message"
        for one, other in zip(original.messages, copy.messages, strict=False)
        for name in MESSAGE_FIELDS
        if getattr(one, name) != getattr(other, name)
    )


def _in_turns(original: Trajectory, copy: Trajectory) -> Counter[str]:
    turns, kept = _turns(original), _turns(copy)
    lost = Counter({"turns that may become candidates": len(turns - kept)})
    for turn in sorted(turns & kept):
        had, has = original.before(turn).facts, copy.before(turn).facts
        lost.update(f"fact {name!r} of a turn" for name in had if had[name] != has.get(name))
    return lost


def _turns(trajectory: Trajectory) -> set[int]:
    roles = enumerate(message.role for message in trajectory.messages)
    turns = {index for index, role in roles if role == "assistant"}
    return turns if trajectory.pivots is None else turns & set(trajectory.pivots)
