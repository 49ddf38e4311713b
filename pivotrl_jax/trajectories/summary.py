"""What is in a set of trajectories, as text."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pivotrl_jax.trajectories.readers import ReadAudit
from pivotrl_jax.trajectories.schema import Message, Trajectory
from pivotrl_jax.trajectories.turns import EVERY_TURN, candidates

SHOWN = 15
# Depth is the number of assistant turns before.
DEPTHS = ((0, "0-1"), (2, "2-4"), (5, "5-9"), (10, "10+"))


def summary(trajectories: Sequence[Trajectory], audit: ReadAudit) -> list[str]:
    """Lines on rows, counts, lengths (characters, messages), tools, depths, roles and rewards."""
    messages = [message for each in trajectories for message in each.messages]
    found = [candidates(each, EVERY_TURN, "train") for each in trajectories]
    turns = [(each, one) for each, (own, _) in zip(trajectories, found, strict=True) for one in own]
    not_candidates = sum((skipped for _, skipped in found), Counter[str]())
    ends = [_running_lengths(each) for each in trajectories]
    by_id = {each.id: lengths for each, lengths in zip(trajectories, ends, strict=True)}
    return [
        *_rows(audit),
        f"trajectories  {len(trajectories)} of {len({t.task_id for t in trajectories})} tasks",
        _counted("domains", (each.domain for each in trajectories)),
        _counted("rewards", (str(each.reward) for each in trajectories)),
        _counted("roles", (message.role for message in messages)),
        f"failed        {sum(message.failed for message in messages)} results",
        f"reasoning     {sum(message.reasoning is not None for message in messages)} turns",
        f"candidates    {len(turns)} turns" + _listed(", left out: ", not_candidates),
        _counted("kinds", (_kind(each.messages[one.message]) for each, one in turns)),
        _counted("depths", (_depth(one.turn) for _, one in turns)),
        _counted("tools", (call.name for message in messages for call in message.calls)),
        _spread("messages", [len(each.messages) for each in trajectories]),
        _spread("characters", [lengths[-1] for lengths in ends]),
        _spread("history", [by_id[each.id][one.message] for each, one in turns]),
        _spread("action", [_length(each.messages[one.message]) for each, one in turns]),
    ]


def folded(audit: ReadAudit, width: int = 13) -> list[str]:
    """A line, named in `width` characters, on what became of pivot rows; none without any."""
    share = audit.sharing
    if share is None:
        return []
    return [
        f"{'folded':<{width}} {share.rows} pivot rows into {share.trajectories} trajectories "
        f"({share.repeated} repeated); {share.row_messages} messages are {share.kept_messages}"
    ]


def _rows(audit: ReadAudit) -> list[str]:
    return [
        f"rows          {audit.lines}: {audit.read} read, {audit.quarantined} bad, "
        f"{audit.blank} blank" + _listed("; bad: ", Counter(audit.reasons)),
        f"formats       {_listed('', Counter(audit.formats))}",
        *folded(audit),
    ]


def _kind(turn: Message) -> str:
    return ("message", "one call")[len(turn.calls)] if len(turn.calls) < 2 else "several calls"


def _depth(turn: int) -> str:
    return next(label for start, label in reversed(DEPTHS) if turn >= start)


def _length(message: Message) -> int:
    """Characters of text, names and arguments; the hidden thought is not counted."""
    calls = sum(len(call.name) + len(str(call.arguments)) for call in message.calls)
    return len(message.content) + calls


def _running_lengths(trajectory: Trajectory) -> list[int]:
    """Characters before each message, and of all."""
    totals = [0]
    for message in trajectory.messages:
        totals.append(totals[-1] + _length(message))
    return totals


def _counted(name: str, values: Iterable[str]) -> str:
    return f"{name:<13} {_listed('', Counter(values)) or 'none'}"


def _listed(head: str, counts: Counter[str]) -> str:
    shown = [f"{count} {name}" for name, count in counts.most_common(SHOWN)]
    more = [f"{len(counts) - SHOWN} others"] if len(counts) > SHOWN else []
    return head + ", ".join(shown + more) if counts else ""


def _spread(name: str, values: Sequence[int]) -> str:
    ordered = sorted(values)
    if not ordered:
        return f"{name:<13} none"
    half, most = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
    return f"{name:<13} {half} in the middle, 9 of 10 below {most}, at most {ordered[-1]}"
