"""Terminus turns: one JSON object with commands for a terminal."""

import dataclasses

from pivotrl_jax.text.parsing import (
    NOTHING,
    ParsedAction,
    find_json,
    parsed,
    split_reasoning,
    verified,
)
from pivotrl_jax.trajectories.schema import Action


@dataclasses.dataclass(frozen=True)
class Terminus:
    """The answers of Terminal-Bench's Terminus agent, versions 1 and 2.

    The object is the action's text as it stands, and there are no calls: its readers and verifiers
    take the answer as text, and which keys it must have depends on the version.
    """

    name: str = dataclasses.field(default="terminus", init=False)

    def print(self, action: Action) -> str:
        """Print the text; ValueError if there is a call."""
        return verified(self, action, action.text)

    def parse(self, text: str) -> ParsedAction:
        """Take all of the text after a thought; a problem is what keeps it from being an object."""
        reasoning, visible, problems = split_reasoning(text)
        _, value = find_json(visible, problems)
        if value is not NOTHING and not isinstance(value, dict):
            problems.append("not_an_object")
        return parsed(visible, (), problems, reasoning)
