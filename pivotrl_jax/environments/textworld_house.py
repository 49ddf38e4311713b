"""Houses drawn at random: what a TextWorld game of a stated difficulty is made of."""

import dataclasses
import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from random import Random

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.textworld import Fact

_ROOMS = (
    "attic", "bathroom", "bedroom", "cellar", "garage", "garden", "hall", "kitchen", "library",
    "lounge", "pantry", "porch", "study", "workshop",
)  # fmt: skip
_DOORS = ("glass door", "oak door", "red door", "steel door")
_KEYS = ("brass key", "iron key", "silver key", "small key")
_HOLDERS = {
    "c": ("basket", "box", "chest", "crate", "cupboard", "drawer", "fridge", "safe", "trunk"),
    "s": ("bed", "bench", "chair", "counter", "desk", "rack", "shelf", "stand", "table"),
}
_THINGS = {
    "f": ("apple", "banana", "bread", "cake", "carrot", "cheese", "egg", "pear", "tomato"),
    "o": (
        "ball", "book", "bowl", "broom", "candle", "clock", "coin", "cup", "hammer", "hat", "knife",
        "lamp", "letter", "mirror", "pen", "plate", "ring", "rope", "towel", "vase",
    ),
}  # fmt: skip
_STEPS = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
_LOOP_SHARE = 0.3  # of neighbouring rooms that would otherwise have no way between them
_FLOOR_SHARE = 0.25  # of things that lie on the floor
_FOOD_SHARE = 0.4  # of things


@dataclasses.dataclass(frozen=True)
class Way:
    """`end` lies in `direction` of `start`, behind a door if one is named."""

    start: str
    direction: str
    end: str
    door: str | None = None


@dataclasses.dataclass(frozen=True)
class House:
    """Everything in a game by name.

    `holders` (containers "c" and supporters "s") and `things` (objects "o", food "f", keys "k")
    have a type and a place: a room, or for things a holder. Doors and containers start closed, or
    locked where `locks` has a key for them. `goals` are facts to bring about: ("in", thing,
    container), ("on", thing, supporter) or ("eaten", food).
    """

    rooms: tuple[str, ...]
    ways: tuple[Way, ...]
    holders: Mapping[str, tuple[str, str]]
    things: Mapping[str, tuple[str, str]]
    locks: Mapping[str, str]
    goals: tuple[Fact, ...]
    start: str


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How much there is in a house, and how long (from, to) the shortest plan is.

    `goals` things have to be put somewhere or eaten, in any order; `distractors` have not. All
    doors and containers are closed; `locks` of them are locked and their keys lie elsewhere.
    """

    rooms: int
    doors: int
    locks: int
    containers: int
    supporters: int
    goals: int
    distractors: int
    plan: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises UserError for what no house can have."""
        limits = {
            "rooms": (2, len(_ROOMS)),
            "doors": (0, min(self.rooms - 1, len(_DOORS))),
            "locks": (0, min(self.doors + self.containers, len(_KEYS))),
            "containers": (max(0, 2 - self.supporters), len(_HOLDERS["c"])),
            "supporters": (0, len(_HOLDERS["s"])),
            "goals": (1, len(_THINGS["o"]) - self.distractors),
            "distractors": (0, len(_THINGS["o"]) - 1),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(
                    f"a house with {name}={getattr(self, name)} cannot be drawn: here {name} goes "
                    f"from {least} to {most}"
                )


EASY = Difficulty(3, 1, 0, 1, 2, 1, 3, (3, 7))
MEDIUM = Difficulty(4, 1, 0, 2, 2, 2, 4, (6, 11))
HARD = Difficulty(5, 2, 1, 2, 3, 3, 4, (9, 16))


def draw(difficulty: Difficulty, rng: Random) -> House:
    """A house at random. It need not have a plan: a key may lie behind its own lock."""
    rooms = rng.sample(_ROOMS, difficulty.rooms)
    ways = _ways(rooms, difficulty.doors, rng)
    holders = {
        name: (kind, rng.choice(rooms))
        for kind, count in (("c", difficulty.containers), ("s", difficulty.supporters))
        for name in rng.sample(_HOLDERS[kind], count)
    }
    closed = [way.door for way in ways if way.door]
    closed += [name for name, (kind, _) in holders.items() if kind == "c"]
    locked = rng.sample(closed, difficulty.locks)
    locks = dict(zip(locked, rng.sample(_KEYS, len(locked)), strict=True))
    kinds = dict(_kinds(difficulty.goals + difficulty.distractors, rng))
    things = {
        name: (kind, _place(rooms, holders, rng))
        for name, kind in {**kinds, **dict.fromkeys(locks.values(), "k")}.items()
    }
    goals = [_goal(name, things, holders, rng) for name in [*kinds][: difficulty.goals]]
    return House(tuple(rooms), tuple(ways), holders, things, locks, tuple(goals), rng.choice(rooms))


def _kinds(count: int, rng: Random) -> Iterator[tuple[str, str]]:
    """Names of different things, and their kinds."""
    left = {kind: rng.sample(names, len(names)) for kind, names in _THINGS.items()}
    for _ in range(count):
        kind = "f" if rng.random() < _FOOD_SHARE and left["f"] else "o"
        yield left[kind].pop(), kind


def _place(rooms: Sequence[str], holders: Mapping[str, tuple[str, str]], rng: Random) -> str:
    if rng.random() < _FLOOR_SHARE:
        return rng.choice(rooms)
    return rng.choice([*holders])


def _goal(
    name: str,
    things: Mapping[str, tuple[str, str]],
    holders: Mapping[str, tuple[str, str]],
    rng: Random,
) -> Fact:
    """What to do with a thing: eat it, or put it where it is not yet."""
    kind, place = things[name]
    if kind == "f" and rng.random() < 0.5:
        return "eaten", name
    target = rng.choice([holder for holder in holders if holder != place])
    return "in" if holders[target][0] == "c" else "on", name, target


def _ways(rooms: Sequence[str], doors: int, rng: Random) -> list[Way]:
    """Ways between rooms on a grid: a tree, and now and then a loop; `doors` have a door."""
    at = {(0, 0): rooms[0]}
    ways: list[Way] = []
    for room in rooms[1:]:
        free = [(x, y, d) for x, y in at for d in _STEPS if _beside((x, y), d) not in at]
        x, y, direction = rng.choice(free)
        at[_beside((x, y), direction)] = room
        ways.append(Way(at[x, y], direction, room))
    ways += _loops(at, {frozenset((way.start, way.end)) for way in ways}, rng)
    behind = rng.sample(range(len(ways)), doors)
    named = dict(zip(behind, rng.sample(_DOORS, len(behind)), strict=True))
    return [dataclasses.replace(way, door=named.get(i)) for i, way in enumerate(ways)]


def _loops(
    at: Mapping[tuple[int, int], str], joined: Container[frozenset[str]], rng: Random
) -> Iterator[Way]:
    """Some of the ways that could still be made between neighbours."""
    for cell, direction in itertools.product(at, ("north", "east")):
        end = at.get(_beside(cell, direction))
        if end and frozenset((at[cell], end)) not in joined and rng.random() < _LOOP_SHARE:
            yield Way(at[cell], direction, end)


def _beside(cell: tuple[int, int], direction: str) -> tuple[int, int]:
    step = _STEPS[direction]
    return cell[0] + step[0], cell[1] + step[1]
