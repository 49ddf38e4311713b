"""Assistant turns of a trajectory that may become candidates (paper section 3, D_cand)."""

import dataclasses
from collections import Counter
from typing import Literal

from pivotrl_jax.trajectories.parsing import tool_name
from pivotrl_jax.trajectories.schema import Candidate, Message, Trajectory


@dataclasses.dataclass(frozen=True)
class TurnRule:
    """What an assistant turn must have, besides an action, to be a candidate.

    `one_call`: exactly one tool call. `succeeded`: no result of its calls is marked failed; a call
    with no recorded result (the final submission) passes.
    """

    name: str
    one_call: bool = False
    succeeded: bool = False


EVERY_TURN = TurnRule("every_turn")
SWE_TURN = TurnRule("swe", one_call=True, succeeded=True)


def candidates(
    trajectory: Trajectory, rule: TurnRule, split: Literal["train", "heldout"]
) -> tuple[list[Candidate], Counter[str]]:
    """Candidates of `trajectory` in order, and the number of its other turns by reason.

    A canned greeting ("greeting": text before the user has said anything) is history only, and so
    is what `Trajectory.pivots` leaves out ("not_a_pivot").
    """
    found: list[Candidate] = []
    skipped: Counter[str] = Counter()
    turns = (i for i, message in enumerate(trajectory.messages) if message.role == "assistant")
    for turn, index in enumerate(turns):
        reason = _reason_to_skip(trajectory, index, rule)
        if reason:
            skipped[reason] += 1
        else:
            name = f"{trajectory.id}#{turn}"
            found.append(Candidate(name, trajectory.id, turn, index, split))
    return found, skipped


def _reason_to_skip(trajectory: Trajectory, index: int, rule: TurnRule) -> str | None:
    message = trajectory.messages[index]
    declared = {tool_name(tool) for tool in trajectory.tools}
    if index == 0:
        return "no_history"
    if trajectory.pivots is not None and index not in trajectory.pivots:
        return "not_a_pivot"
    if _is_greeting(trajectory.messages, index):
        return "greeting"
    if not message.calls and not message.content.strip():
        return "empty_action"
    if rule.one_call and not message.calls:
        return "no_tool_call"
    if declared and any(call.name not in declared for call in message.calls):
        return "unknown_tool"
    if rule.one_call and len(message.calls) > 1:
        return "several_calls"
    if rule.succeeded and any(result.failed for result in _results(trajectory.messages, index)):
        return "failed_call"
    return None


def _is_greeting(messages: tuple[Message, ...], index: int) -> bool:
    before, after = messages[:index], messages[index + 1 :]
    return (
        not messages[index].calls
        and all(message.role == "system" for message in before)
        and any(message.role == "user" for message in after)
    )


def _results(messages: tuple[Message, ...], index: int) -> tuple[Message, ...]:
    """Messages of the environment between the turn at `index` and the next assistant turn."""
    end = index + 1
    while end < len(messages) and messages[end].role in ("tool", "user"):
        end += 1
    return messages[index + 1 : end]
