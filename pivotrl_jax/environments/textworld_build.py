"""From a plan of a house to a game of the textworld package, and from there to masks."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from pivotrl_jax.environments.types import Split
from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.textworld import INVENTORY, YOU, Deed, Fact, Game, Goal, content

try:
    from textworld.generator import GameMaker
    from textworld.generator.data import KnowledgeBase
    from textworld.generator.game import Event, GameOptions, Quest
    from textworld.logic import Action, Proposition, Rule
except ImportError as error:
    raise UserError(
        "the package textworld, which makes the games, is not installed: run "
        "`pip install -r requirements-study.txt`"
    ) from error

_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


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


def build(house: House) -> Any:
    """The house as a `textworld.generator.Game`, which checks its constraints."""
    options = GameOptions()
    options.seeds = 0  # for descriptions, which nobody reads; without it they move textworld's rng
    options.kb = KnowledgeBase.default()
    maker = GameMaker(options)
    entities = {name: maker.new_room(name) for name in house.rooms}
    for way in house.ways:
        start, end = entities[way.start], entities[way.end]
        path = maker.connect(start.exits[way.direction], end.exits[_OPPOSITE[way.direction]])
        if way.door:
            entities[way.door] = maker.new_door(path, way.door)
    for name, (kind, place) in {**house.holders, **house.things}.items():
        entities[name] = maker.new(type=kind, name=name)
        entities[place].add(entities[name])
    for name, entity in entities.items():
        if entity.type in "cd":
            entity.add_property("locked" if name in house.locks else "closed")
        if entity.type == "f":
            entity.add_property("edible")
    for name, key in house.locks.items():
        maker.add_fact("match", entities[key], entities[name])
    maker.set_player(entities[house.start])
    maker.quests = [_quest(goal, entities) for goal in house.goals]
    return maker.build()


def _quest(goal: Fact, entities: Mapping[str, Any]) -> Quest:
    """A quest for `goal`; one for food that has to be put somewhere is lost by eating it."""
    variables = [entities[name].var for name in goal[1:]]
    win = Event(conditions=[Proposition(goal[0], variables)])
    if goal[0] == "eaten" or entities[goal[1]].type != "f":
        return Quest(win_events=[win])
    return Quest(
        win_events=[win], fail_events=[Event(conditions=[Proposition("eaten", variables[:1])])]
    )


def grounded(built: Any, split: Split) -> Game:
    """A textworld game as masks; it is called by its content.

    Every quest has one winning event and at most one failing one, as `build` makes them. Examining
    is left out: it shows nothing that the room's description does not.
    """
    state = built.world.state
    rules = [rule for name, rule in built.kb.rules.items() if not name.startswith("examine")]
    actions = _within_reach(state, rules, built.kb.types.constants_mapping)
    start = sorted(state.facts)
    quests = [[*q.win_events, *q.fail_events] for q in built.quests]
    conditions = [fact for events in quests for e in events for fact in e.condition.preconditions]
    changed = {fact for action in actions for fact in (*action.added, *action.removed)}
    bits = {fact: 1 << i for i, fact in enumerate(sorted({*start, *changed, *conditions}))}
    name = functools.partial(_name, {i: info.name for i, info in built.infos.items()})
    templates = built.kb.inform7_commands

    def mask(facts: Iterable[Proposition]) -> int:
        return functools.reduce(operator.or_, (bits[fact] for fact in facts), 0)

    def deed(action: Action) -> Deed:
        verb, *slots = templates[action.name].split()
        filled = {p.name: v for p, v in built.kb.rules[action.name].match(action).items()}
        names = [name(filled[s[1:-1]]) for s in slots if s[0] == "{"]
        return Deed(
            verb,
            tuple(names or slots),
            mask(fact for fact in action.preconditions if fact in changed),
            mask(action.added),
            mask(action.removed),
        )

    game = Game(
        id="",
        split=split,
        kinds={info.name: info.type for info in built.infos.values() if info.name},
        facts=tuple((fact.name, *map(name, fact.arguments)) for fact in bits),
        start=mask(start),
        deeds=tuple(map(deed, actions)),
        goals=tuple(
            Goal(*(mask(event.condition.preconditions) for event in events)) for events in quests
        ),
    )
    return dataclasses.replace(game, id=content(game))


def _name(names: Mapping[str, str], variable: Any) -> str:
    return {"P": YOU, "I": INVENTORY}.get(variable.name) or names[variable.name]


def _within_reach(state: Any, rules: Iterable[Rule], constants: Any) -> list[Action]:
    """Every action that could ever be possible, if no action removed any fact; sorted."""
    rules = list(rules)
    reach = state.copy()
    found: set[Action] = set()
    while True:
        new = set(reach.all_applicable_actions(rules, constants)) - found
        if not new:
            return sorted(found, key=str)
        found |= new
        reach.add_facts(fact for action in new for fact in action.added)
