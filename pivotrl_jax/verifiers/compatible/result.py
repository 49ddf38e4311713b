"""What a compatible verifier says about one output."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Result:
    """Upstream's reward and the name of its category or failure.

    `criteria` holds the checks that were reached, in their order, each in [0, 1].
    """

    reward: float
    reason: str
    criteria: Mapping[str, float] = dataclasses.field(default_factory=dict)
