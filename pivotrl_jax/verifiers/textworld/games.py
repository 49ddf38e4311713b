"""Files of games, one JSON object a line."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import files
from pivotrl_jax.verifiers.textworld.plans import wanted
from pivotrl_jax.verifiers.textworld.world import YOU, Deed, Game, Goal


def write_games(games: Iterable[Game], path: Path) -> None:
    """Writes games that `read_games` reads back."""
    with files.writing(path) as out:
        out.writelines(json.dumps(_row(game)) + "\n" for game in games)


def read_games(path: str | Path) -> dict[str, Game]:
    """The games of a file by id.

    Raises UserError where there is none, and where a line is no game or one that came before.
    """
    if not Path(path).is_file():
        raise UserError(
            f"no games at {str(path)!r}: give the file that `write_games` wrote (the verifier's is "
            "reward.databases, or --databases on the command line)"
        )
    games: dict[str, Game] = {}
    for line in files.lines(Path(path)):
        where = f"{line.file}:{line.number}"
        try:
            game = _game(json.loads(line.data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} is no game ({error!r}): write the file again") from error
        if game.id in games:
            raise UserError(f"{where} holds game {game.id} again: write the file again")
        games[game.id] = game
    if not games:
        raise UserError(f"{str(path)!r} holds no games: write the file again")
    return games


def content(game: Game) -> str:
    """A digest of what a game asks for and where things are for that.

    Neither where the player starts nor the things that no goal needs count, so that games with one
    digest have nearly the same plans: they belong into one split.
    """
    idle = {name for name, kind in game.kinds.items() if kind in "ofk"} - wanted(game)
    facts = [
        fact
        for fact in game.holding(game.start)
        if fact[0] != "at" or fact[1] != YOU
        if idle.isdisjoint(fact)
    ]
    goals = [[sorted(game.holding(mask)) for mask in (g.wins, g.fails)] for g in game.goals]
    text = json.dumps([sorted(facts), sorted(goals)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _row(game: Game) -> dict[str, Any]:
    return {
        "id": game.id,
        "split": game.split,
        "kinds": dict(game.kinds),
        "facts": game.facts,
        "start": _places(game.start),
        "deeds": [
            [deed.verb, deed.names, *map(_places, (deed.needs, deed.adds, deed.drops))]
            for deed in game.deeds
        ],
        "goals": [[_places(goal.wins), _places(goal.fails)] for goal in game.goals],
    }


def _game(row: Mapping[str, Any]) -> Game:
    return Game(
        id=row["id"],
        split=row["split"],
        kinds=row["kinds"],
        facts=tuple(map(tuple, row["facts"])),
        start=_mask(row["start"]),
        deeds=tuple(
            Deed(verb, tuple(names), *map(_mask, masks)) for verb, names, *masks in row["deeds"]
        ),
        goals=tuple(Goal(*map(_mask, masks)) for masks in row["goals"]),
    )


def _places(mask: int) -> list[int]:
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def _mask(places: list[int]) -> int:
    return sum(1 << i for i in places)
