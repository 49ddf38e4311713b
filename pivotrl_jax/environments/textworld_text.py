"""What a game says: short sentences of few words, the same for the same state and command."""

from collections.abc import Iterable, Sequence

from pivotrl_jax.verifiers.textworld import INVENTORY, YOU, Deed, Fact, Game, State

NOT_A_COMMAND = "That is not a command."
NOT_POSSIBLE = "You cannot do that now."

_DIRECTIONS = ("north", "east", "south", "west")
_STATES = ("open", "closed", "locked")
_DONE = {
    "take": "You take the {0}.",
    "drop": "You drop the {0}.",
    "insert": "You put the {0} in the {1}.",
    "put": "You put the {0} on the {1}.",
    "open": "You open the {0}.",
    "close": "You close the {0}.",
    "unlock": "You unlock the {0} with the {1}.",
    "lock": "You lock the {0} with the {1}.",
    "eat": "You eat the {0}.",
}


def opening(game: Game) -> str:
    """The goals, where the things for them are, the map, and the room: all that a plan needs."""
    facts = list(game.holding(game.start))
    goals = [fact for goal in game.goals for fact in game.holding(goal.wins)]
    keys = [fact for fact in facts if fact[0] == "match"]
    named = [name for fact in goals for name in fact[1:]] + [key for _, key, _ in keys]
    lines = [
        ["Goals:", *map(_goal, goals)],
        [f"The {name} is {_place(name, facts)}." for name in dict.fromkeys(named)],
        [f"The {key} opens the {lock}." for _, key, lock in keys],
        ["Map:", *_map(facts)],
        [view(game, game.start)],
    ]
    return "\n".join(" ".join(line) for line in lines if line)


def answer(game: Game, before: State, deed: Deed) -> str:
    """What a possible deed brings, and how the goals stand if that has changed."""
    after = game.after(before, deed)
    if game.won(after):
        stand = ["You have won."]
    elif game.lost(after):
        stand = ["You have lost."]
    elif game.reached(after) > game.reached(before):
        stand = [f"{game.reached(after)} of {len(game.goals)} goals done."]
    else:
        stand = []
    return " ".join([_told(game, after, deed), *stand])


def view(game: Game, state: State) -> str:
    """The room, what is in sight, and the ways out."""
    facts = list(game.holding(state))
    room = _room(facts)
    here = [name for name in _within("at", room, facts) if name != YOU]
    floor = [name for name in here if game.kinds[name] not in "cs"]
    sights = [_holder(name, game, facts) for name in here if game.kinds[name] in "cs"]
    sights += [f"On the floor: {', '.join(floor)}."] if floor else []
    return " ".join([f"You are in the {room}.", *sights, *_exits(room, facts)])


def _told(game: Game, after: State, deed: Deed) -> str:
    if deed.verb in ("go", "look"):
        return view(game, after)
    facts = list(game.holding(after))
    if deed.verb == "inventory":
        return f"You carry: {_listed(_within('in', INVENTORY, facts))}."
    done = _DONE[deed.verb].format(*deed.names)
    if deed.verb == "open" and game.kinds[deed.names[0]] == "c":
        return f"{done} {_holder(deed.names[0], game, facts)}"
    return done


def _goal(fact: Fact) -> str:
    if fact[0] == "eaten":
        return f"Eat the {fact[1]}."
    return f"Put the {fact[1]} {fact[0]} the {fact[2]}."


def _place(name: str, facts: Sequence[Fact]) -> str:
    """Where a thing is: "on the shelf in the attic"."""
    relation, place = next(
        (f[0], f[2]) for f in facts if f[0] in ("at", "in", "on") and f[1] == name
    )
    if relation == "at":
        return f"in the {place}"
    return f"{relation} the {place} {_place(place, facts)}"


def _map(facts: Sequence[Fact]) -> list[str]:
    behind = {(f[1], f[3]): f", behind the {f[2]}" for f in facts if f[0] == "link"}
    return [
        f"The {fact[1]} is {direction} of the {fact[2]}{behind.get((fact[2], fact[1]), '')}."
        for direction in ("north", "east")
        for fact in facts
        if fact[0] == f"{direction}_of"
    ]


def _room(facts: Iterable[Fact]) -> str:
    return next(fact[2] for fact in facts if fact[:2] == ("at", YOU))


def _within(relation: str, place: str, facts: Iterable[Fact]) -> list[str]:
    return [fact[1] for fact in facts if fact[0] == relation and fact[2] == place]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _holder(name: str, game: Game, facts: Sequence[Fact]) -> str:
    """What is on a supporter or in a container, or that it is shut."""
    if game.kinds[name] == "s":
        return f"On the {name}: {_listed(_within('on', name, facts))}."
    if ("open", name) in facts:
        return f"In the {name}: {_listed(_within('in', name, facts))}."
    return f"The {name} is {_state(name, facts)}."


def _state(name: str, facts: Iterable[Fact]) -> str:
    return next(fact[0] for fact in facts if fact[0] in _STATES and fact[1] == name)


def _exits(room: str, facts: Sequence[Fact]) -> list[str]:
    doors = {
        f[3]: f"{f[2]} ({_state(f[2], facts)}) to the " for f in facts if f[:2] == ("link", room)
    }
    return [
        f"{direction.capitalize()}: {doors.get(f[1], '')}{f[1]}."
        for direction in _DIRECTIONS
        for f in facts
        if f[0] == f"{direction}_of" and f[2] == room
    ]
