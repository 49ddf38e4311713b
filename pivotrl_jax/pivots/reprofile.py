"""When to profile again: the signal of the chosen pivots dries up as the policy learns them."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from pivotrl_jax.errors import UserError

Metrics = Mapping[str, float | None]  # one training step, as in metrics.jsonl


@dataclasses.dataclass(frozen=True)
class ReprofileSettings:
    """Profile again `every` so many steps, or when a metric falls below a fraction of its start.

    `mixed_share` and `reward_std` are those fractions; None switches a rule off. Start and present
    are means over `window` steps, the first ones since the last profile and the last ones, which
    do not overlap: so no fraction acts in the first 2 * `window` - 1 steps after a profile.
    """

    every: int | None = None
    mixed_share: float | None = None
    reward_std: float | None = None
    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1 or (self.every is not None and self.every < 1):
            raise UserError("reprofile.window and reprofile.every count steps: give 1 or more")
        for name in ("mixed_share", "reward_std"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 < fraction < 1:
                raise UserError(f"reprofile.{name} is {fraction}: give a fraction between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Number `number` of a run's profiles, taken after `step` steps because of `reason`."""

    number: int
    step: int
    reason: str

    @property
    def directory(self) -> str:
        """Where its samples are, below the work directory; a new profile keeps the old ones."""
        return f"profile/{self.number}"


def due(since: Sequence[Metrics], settings: ReprofileSettings) -> str | None:
    """Why it is time to profile again, or None; `since` has the steps since the last profile.

    A step without a finite value (no group had two valid samples, say) does not count in a mean,
    and a metric without any in a window decides nothing.
    """
    if settings.every is not None and len(since) >= settings.every:
        return f"{len(since)} steps since the last profile"
    window = settings.window
    if len(since) < 2 * window:
        return None
    for name in ("mixed_share", "reward_std"):
        fraction = getattr(settings, name)
        start, now = _mean(since[:window], name), _mean(since[-window:], name)
        # Comparing with NaN, the mean of nothing, is false.
        if fraction is not None and now < fraction * start:
            return f"{name} fell to {now:.3g}, below {fraction:.3g} of {start:.3g}"
    return None


def profiles(history: Iterable[Metrics], settings: ReprofileSettings) -> tuple[Profile, ...]:
    """All profiles of a run with the metrics `history` of steps 0, 1, ...; number 0 comes first.

    A pure function of what is on disk, so that a resumed run finds the profiles it had: the last
    one is new exactly if its `step` is the length of `history`.
    """
    found = [Profile(0, 0, "before training")]
    since: list[Metrics] = []
    for step, metrics in enumerate(history):
        since.append(metrics)
        reason = due(since, settings)
        if reason is not None:
            found.append(Profile(len(found), step + 1, reason))
            since = []
    return tuple(found)


def _mean(steps: Sequence[Metrics], name: str) -> float:
    values = [value for step in steps if (value := step.get(name)) is not None]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
