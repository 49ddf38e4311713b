"""From a house to a game of the textworld package, and from there to masks."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from pivotrl_jax.environments.textworld_house import House
from pivotrl_jax.environments.types import Split
from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.textworld import INVENTORY, YOU, Deed, Fact, Game, Goal, content

try:
    from textworld.generator import GameMaker
    from textworld.generator.data import KnowledgeBase
    from textworld.generator.game import Event, GameOptions, Quest
    from textworld.logic import Action, Proposition, Variable
except ImportError as error:
    raise UserError(
        "the package textworld, which makes the games, is not installed: run "
        "`pip install -r requirements-study.txt`"
    ) from error

_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


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
    actions = _within_reach(built)
    quests = [
        [event.condition.preconditions for event in (*quest.win_events, *quest.fail_events)]
        for quest in built.quests
    ]
    changing = {fact for action in actions for fact in (*action.added, *action.removed)}
    asked = {fact for conditions in quests for facts in conditions for fact in facts}
    facts = sorted({*built.world.state.facts, *changing, *asked})
    ground = _Ground(built, {fact: 1 << i for i, fact in enumerate(facts)}, changing)
    game = Game(
        id="",
        split=split,
        kinds={info.name: info.type for info in built.infos.values() if info.name},
        facts=tuple((fact.name, *map(ground.name, fact.arguments)) for fact in facts),
        start=ground.mask(built.world.state.facts),
        deeds=tuple(map(ground.deed, actions)),
        goals=tuple(Goal(*map(ground.mask, conditions)) for conditions in quests),
    )
    return dataclasses.replace(game, id=content(game))


@dataclasses.dataclass(frozen=True)
class _Ground:
    """What turns propositions into bits, and entities into names."""

    built: Any
    bits: Mapping[Proposition, int]
    changing: Set[Proposition]

    def name(self, variable: Variable) -> str:
        own = {"P": YOU, "I": INVENTORY}.get(variable.name)
        return own or self.built.infos[variable.name].name

    def mask(self, facts: Iterable[Proposition]) -> int:
        return functools.reduce(operator.or_, (self.bits[fact] for fact in facts), 0)

    def deed(self, action: Action) -> Deed:
        kb = self.built.kb
        verb, *words = kb.inform7_commands[action.name].split()
        filled = {slot.name: each for slot, each in kb.rules[action.name].match(action).items()}
        # "{o}" of "take {o} from {c}", or the direction of "go north".
        names = [self.name(filled[word[1:-1]]) for word in words if word[0] == "{"] or words
        needs = self.mask(fact for fact in action.preconditions if fact in self.changing)
        return Deed(verb, tuple(names), needs, self.mask(action.added), self.mask(action.removed))


def _within_reach(built: Any) -> list[Action]:
    """Every action that could ever be possible, if no action removed any fact; sorted."""
    rules = [rule for name, rule in built.kb.rules.items() if not name.startswith("examine")]
    reach = built.world.state.copy()
    found: set[Action] = set()
    while True:
        new = set(reach.all_applicable_actions(rules, built.kb.types.constants_mapping)) - found
        if not new:
            return sorted(found, key=str)
        found |= new
        reach.add_facts(fact for action in new for fact in action.added)
