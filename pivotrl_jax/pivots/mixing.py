"""Several domains in one run: caps on what is selected of each, and batches of fixed shares."""

import collections
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import Action

Kind = Literal["message", "tool", "batch"]
KINDS = get_args(Kind)


def kind(expert: Action) -> Kind:
    """What an expert's action is: a message, one tool call or several."""
    if not expert.calls:
        return "message"
    return "tool" if len(expert.calls) == 1 else "batch"


@dataclasses.dataclass(frozen=True)
class Caps:
    """Bounds on the selected pivots of one domain.

    `message_share`: of messages among them, since verifiers that accept any text where a message
    is expected make those easy to satisfy (`--max-message-ratio` of NeMo RL's conversational
    recipe). `pivots`: of all (None: none).
    """

    message_share: float = 1.0
    pivots: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.message_share <= 1:
            raise UserError(f"message_share is {self.message_share}: give a share between 0 and 1")
        if self.pivots is not None and self.pivots < 1:
            raise UserError(f"pivots is {self.pivots}: give 1 or more, or leave it unset")


def cap(table: pa.Table, kinds: Sequence[Kind], caps: Mapping[str, Caps]) -> pa.Table:
    """Takes selected pivots back until every domain keeps its caps, the easiest ones first.

    `table` is that of `selection.select`, `kinds` has a kind for each of its rows. A domain keeps
    as many pivots as its caps allow, and of those the ones of lowest mean (then by id). The rest
    get the status over_message_share or over_pivots, so that `selection.audit` counts them.
    UserError for caps of a domain that the table does not have.
    """
    domains = table["domain"].to_pylist()
    _known("caps", caps, sorted(set(domains)))
    order = _hardest_first(table)
    surplus: dict[int, str] = {}
    for domain, own in caps.items():
        surplus |= _surplus([row for row in order if domains[row] == domain], kinds, own)
    columns = {name: table[name].to_pylist() for name in ("status", "selected")}
    for row, reason in surplus.items():
        columns["status"][row], columns["selected"][row] = reason, False
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def _hardest_first(table: pa.Table) -> list[int]:
    """Rows of the selected candidates, by mean and id."""
    keys = table.select(["selected", "mean", "candidate_id"]).to_pylist()
    selected = [row for row, key in enumerate(keys) if key["selected"]]
    return sorted(selected, key=lambda row: (keys[row]["mean"], keys[row]["candidate_id"]))


def _surplus(rows: Sequence[int], kinds: Sequence[Kind], caps: Caps) -> dict[int, str]:
    """The rows beyond the caps, with the reason; `rows` come hardest first."""
    messages = sum(kinds[row] == "message" for row in rows)
    others = len(rows) - messages
    # Exactly as written: in floats, 2 * 0.6 / (1 - 0.6) is less than 3.
    share = Fraction(str(caps.message_share))
    room = messages if share == 1 else min(messages, math.floor(others * share / (1 - share)))
    total = others + room if caps.pivots is None else min(others + room, caps.pivots)
    room = min(room, math.floor(total * share))
    surplus: dict[int, str] = {}
    for row in rows:
        is_message = kinds[row] == "message"
        if is_message and room == 0:
            surplus[row] = "over_message_share"
        elif total == 0:
            surplus[row] = "over_pivots"
        else:
            total, room = total - 1, room - is_message
    return surplus


def mixed_batch(
    domains: Sequence[str], weights: Mapping[str, float], batch: int, seed: int, step: int
) -> Int[np.ndarray, "batch"]:
    """Indices of different items for `step`, domain by domain; a function of its arguments.

    `domains` names each item's domain. Their numbers in all batches up to any step stand in the
    ratio of `weights`, but for rounding; each domain is shuffled anew whenever it is used up. One
    with fewer items than its share of a batch gives all that it has. UserError for a domain without
    a weight and a weight without a domain.
    """
    members: dict[str, list[int]] = collections.defaultdict(list)
    for index, domain in enumerate(domains):
        members[domain].append(index)
    _known("weights", weights, list(members))
    _known("domains", members, list(weights))
    places = places_of(weights, batch, step)
    parts = [
        _draw(np.array(own), places[domain], (seed, number))
        for number, (domain, own) in enumerate(sorted(members.items()))
    ]
    return np.concatenate(parts)


def places_of(weights: Mapping[str, float], batch: int, step: int) -> dict[str, range]:
    """Which of each domain's items `step` takes, in the count of all that it has taken so far."""
    before, after = (seats(weights, batch * n) for n in (step, step + 1))
    return {domain: range(before[domain], after[domain]) for domain in weights}


def _draw(items: np.ndarray, places: range, seed: tuple[int, int]) -> np.ndarray:
    """The items at `places` of an endless sequence of shuffles of the domain's."""
    size = len(items)
    count = min(len(places), size)
    epoch, place = divmod(places.start, size)
    order = np.random.default_rng((*seed, epoch)).permutation(size)
    # The last batch of an epoch moves back to fit in: no item comes twice in it, and the few that
    # the next epoch then skips are others each time.
    first = min(place, size - count)
    return items[order[first : first + count]]


def seats(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` seats shared out in proportion to `weights` (Webster / Sainte-Lague).

    Unlike rounding the shares, it gives no domain fewer seats of a larger total, so the difference
    between two totals is a batch. Ties go to the name that sorts first. UserError without a
    positive weight.
    """
    names = sorted(weights)
    if not all(0 <= weights[name] < math.inf for name in names) or not any(weights.values()):
        raise UserError(f"weights {dict(weights)}: give every domain 0 or more, and one above 0")
    exact = {name: Fraction(weights[name]) for name in names}
    scale = total / sum(exact.values())
    given = {name: math.floor(exact[name] * scale + Fraction(1, 2)) for name in names}
    while sum(given.values()) < total:
        given[max(names, key=lambda name: exact[name] / (2 * given[name] + 1))] += 1
    while sum(given.values()) > total:
        held = [name for name in reversed(names) if given[name]]
        given[min(held, key=lambda name: exact[name] / (2 * given[name] - 1))] -= 1
    return given


def _known(what: str, names: Mapping[str, object], valid: Sequence[str]) -> None:
    for name in names:
        if name not in valid:
            nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "there are none."
            raise UserError(f"{what}: no domain {name!r} among {', '.join(valid)}; {hint}")
