"""Generated games: exactly TextWorld's, disjoint, and the same in every process."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from textworld.generator.game import GameProgression, gen_commands_from_actions

from pivotrl_jax.environments import textworld_house
from pivotrl_jax.environments.textworld_build import build, grounded
from pivotrl_jax.environments.textworld_games import generate
from pivotrl_jax.environments.textworld_house import (
    EASY,
    HARD,
    MEDIUM,
    Difficulty,
    House,
    Way,
    draw,
)
from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.textworld import (
    Game,
    Plans,
    commands,
    content,
    read_games,
    write_games,
)

LOCKED = Difficulty(3, 2, 3, 2, 1, 3, 2, (1, 40))
# Room enough to be lost: the apple is to be put on the table and may be eaten.
HOUSE = House(
    rooms=("hall", "study"),
    ways=(Way("hall", "north", "study", "oak door"),),
    holders={"box": ("c", "hall"), "table": ("s", "study")},
    things={
        "apple": ("f", "hall"),
        "pear": ("f", "box"),
        "coin": ("o", "table"),
        "brass key": ("k", "box"),
    },
    locks={"oak door": "brass key"},
    goals=(("on", "apple", "table"), ("eaten", "pear")),
    start="hall",
)


def named(facts: Any, names: dict[str, str]) -> set[tuple[str, ...]]:
    names = {**names, "P": "you", "I": "inventory"}
    return {(fact.name, *(names[each.name] for each in fact.arguments)) for fact in facts}


@pytest.mark.parametrize("difficulty", [EASY, MEDIUM, HARD, LOCKED])
@pytest.mark.parametrize("seed", range(4))
def test_a_random_walk_is_textworlds(difficulty: Difficulty, seed: int) -> None:
    """Facts, commands, quests, and the end are those of TextWorld's own machinery."""
    rng = Random(seed)
    built, game = with_a_plan(difficulty, rng)
    progress = GameProgression(built)
    names = {i: info.name for i, info in built.infos.items() if info.name}
    state, changes = game.start, 0
    for _ in range(60):
        assert set(game.holding(state)) == named(progress.state.facts, names)
        assert game.won(state) == progress.completed
        assert game.lost(state) == progress.failed
        assert game.reached(state) == progress.score
        if progress.done:
            break
        theirs = {
            gen_commands_from_actions([action])[0]: action
            for action in progress.valid_actions
            if not action.name.startswith("examine")
        }
        ours = {to_ids(command, names): command for command in commands(game, state)}
        assert ours.keys() == theirs.keys()
        chosen = rng.choice(sorted(ours))
        deed = game.obeyed(state, ours[chosen])
        assert deed is not None
        changes += game.after(state, deed) != state
        state = game.after(state, deed)
        progress.update(theirs[chosen])
    assert changes > 3


def with_a_plan(difficulty: Difficulty, rng: Random) -> tuple[Any, Game]:
    while True:
        built = build(draw(difficulty, rng))
        game = grounded(built, "train")
        if math.isfinite(Plans(game).left(game.start)):
            return built, game


def to_ids(command: str, names: dict[str, str]) -> str:
    """A command with TextWorld's ids, as it prints them for want of names."""
    for identity, name in sorted(names.items(), key=lambda pair: -len(pair[1])):
        command = f" {command} ".replace(f" {name} ", f" {identity} ").strip()
    return command


@pytest.mark.parametrize(
    ("moves", "reached", "won", "lost"),
    [
        (["take apple", "eat apple"], 0, False, True),
        (["open box", "take pear", "eat pear"], 1, False, False),
        (["open box", "take pear", "eat pear", "take apple", "eat apple"], 1, False, True),
        (
            ["open box", "take brass key", "unlock oak door", "open oak door", "take apple", "n",
             "put apple on table"],
            1, False, False,
        ),
        (
            ["open box", "take brass key", "unlock oak door", "open oak door", "take apple", "n",
             "put apple on table", "get apple", "eat apple", "s", "get pear", "eat pear"],
            2, True, False,
        ),
    ],
)  # fmt: skip
def test_quests_stay_completed_and_can_be_failed(
    moves: list[str], reached: int, won: bool, lost: bool
) -> None:
    game = grounded(build(HOUSE), "train")
    state = game.start
    for move in moves:
        deed = game.obeyed(state, move)
        assert deed is not None, move
        state = game.after(state, deed)
    assert (game.reached(state), game.won(state), game.lost(state)) == (reached, won, lost)
    assert (won or lost) == (commands(game, state) == [])


@pytest.mark.parametrize("difficulty", [EASY, MEDIUM, HARD])
def test_games_are_as_difficult_as_stated(difficulty: Difficulty) -> None:
    games = generate(difficulty, {"train": 5}, seed=1)
    shortest, longest = difficulty.plan
    for game in games:
        assert shortest <= Plans(game).left(game.start) <= longest
        count = Counter(game.kinds.values())
        assert (count["r"], count["d"], count["k"]) == (
            difficulty.rooms, difficulty.doors, difficulty.locks,
        )  # fmt: skip
        assert (count["c"], count["s"]) == (difficulty.containers, difficulty.supporters)
        assert count["o"] + count["f"] == difficulty.goals + difficulty.distractors
        assert len(game.goals) == difficulty.goals


def test_splits_are_disjoint_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are so few names that the same game is often drawn again."""
    monkeypatch.setattr(textworld_house, "_ROOMS", ("hall", "study"))
    monkeypatch.setattr(textworld_house, "_HOLDERS", {"c": ("box",), "s": ("bed", "desk")})
    monkeypatch.setattr(textworld_house, "_THINGS", {"f": ("egg",), "o": ("coin", "cup")})
    poor = Difficulty(2, 0, 0, 0, 2, 1, 0, (1, 9))
    drawn = [grounded(build(draw(poor, Random(seed))), "train").id for seed in range(100)]
    assert len(set(drawn)) < 90
    counts = {"train": 60, "validation": 20, "test": 20}
    games = generate(poor, counts, seed=0)
    assert Counter(game.split for game in games) == counts
    assert len({content(game) for game in games}) == len(games) == 100


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"start": "study"}, True),
        ({"start": "study", "things": HOUSE.things | {"brass key": ("k", "table")}}, False),
        ({"things": HOUSE.things | {"coin": ("o", "hall")}}, True),
        ({"things": {**HOUSE.things, "hat": ("o", "hall")}}, True),
        ({"things": HOUSE.things | {"apple": ("f", "box")}}, False),
        ({"things": HOUSE.things | {"brass key": ("k", "hall")}}, False),
        ({"goals": HOUSE.goals[:1]}, False),
        ({"goals": (("in", "apple", "box"), HOUSE.goals[1])}, False),
        ({"locks": {}}, False),
        ({"ways": (Way("hall", "east", "study", "oak door"),)}, False),
        ({"goals": HOUSE.goals[::-1]}, True),
    ],
)
def test_content_is_what_the_goals_need(change: dict[str, Any], same: bool) -> None:
    first = grounded(build(HOUSE), "train")
    second = grounded(build(dataclasses.replace(HOUSE, **change)), "test")
    assert first.id == content(first)
    assert (first.id == second.id) == same


def test_too_many_games_for_a_difficulty_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="gave only 0 of 1 games"):
        generate(Difficulty(2, 0, 0, 0, 2, 1, 0, (50, 60)), {"train": 1}, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rooms": 1}, "rooms=1 cannot be drawn: here rooms goes from 2 to 14"),
        ({"doors": 4}, "doors goes from 0 to 3"),
        ({"locks": 4}, "locks goes from 0 to 3"),
        ({"containers": 0, "supporters": 1}, "containers goes from 1 to 9"),
        ({"supporters": 10}, "supporters goes from 0 to 9"),
        ({"goals": 0}, "goals goes from 1 to 16"),
        ({"goals": 17}, "goals goes from 1 to 16"),
        ({"distractors": -1}, "distractors goes from 0 to 19"),
    ],
)
def test_an_impossible_difficulty_is_told(change: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(MEDIUM, **change)


@pytest.mark.parametrize(
    "difficulty",
    [
        Difficulty(14, 4, 4, 9, 9, 10, 10, (0, 9)),
        Difficulty(2, 1, 2, 1, 1, 20, 0, (0, 9)),
        Difficulty(2, 0, 2, 2, 0, 1, 19, (0, 9)),
    ],
)
def test_the_limits_can_be_drawn(difficulty: Difficulty) -> None:
    for seed in range(30):
        house = draw(difficulty, Random(seed))
        assert len(house.things) == difficulty.goals + difficulty.distractors + difficulty.locks
        assert sum(way.door is not None for way in house.ways) == difficulty.doors
        assert len(house.locks) == difficulty.locks
        assert len({goal[1] for goal in house.goals}) == difficulty.goals


def test_a_file_gives_the_games_back(tmp_path: Path) -> None:
    games = generate(MEDIUM, {"train": 2, "test": 1}, seed=0)
    write_games(games, tmp_path / "games.jsonl.gz")
    read = read_games(tmp_path / "games.jsonl.gz")
    assert [*read] == [game.id for game in games]
    for game, again in zip(games, read.values(), strict=True):
        assert fields(again) == fields(game)


def fields(game: Game) -> dict[str, Any]:
    return {field.name: getattr(game, field.name) for field in dataclasses.fields(Game)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: [*rows, rows[0]], r"games.jsonl:3 holds game \w+ again"),
        (lambda rows: [rows[0], rows[1][:50]], "games.jsonl:2 is no game"),
        (lambda rows: [json.dumps({"id": "a"}), *rows], "games.jsonl:1 is no game"),
        (lambda rows: ["[]"], "games.jsonl:1 is no game"),
        (lambda rows: [], "games.jsonl' holds no games"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, damage: Any, message: str) -> None:
    path = tmp_path / "games.jsonl"
    write_games(generate(EASY, {"train": 2}, seed=0), path)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(UserError, match=message):
        read_games(path)


MAKE = """
import sys
from pathlib import Path
from pivotrl_jax.environments.textworld_expert import Style, write_expert, write_weak
from pivotrl_jax.environments.textworld_games import generate
from pivotrl_jax.environments.textworld_house import MEDIUM
from pivotrl_jax.verifiers.textworld import write_games

folder = Path(sys.argv[1])
games = generate(MEDIUM, {"train": 3, "test": 1}, seed=5)
write_games(games, folder / "games.jsonl")
write_expert(games, Style(1), folder / "expert.jsonl")
write_weak(games, [Style(2), Style(3)], 0.5, folder / "weak.jsonl", plays=2)
"""


def test_every_process_makes_the_same_files(tmp_path: Path) -> None:
    made = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, env=environment)
        made.append({path.name: path.read_text() for path in sorted(folder.iterdir())})
    assert made[0] == made[1]
    assert [len(text.splitlines()) for text in made[0].values()] == [4, 4, 8]


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "pivotrl_jax.environments.textworld_build"
    monkeypatch.setitem(sys.modules, "textworld.generator", None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError, match=r"requirements-study\.txt"):
        generate(EASY, {"train": 1}, seed=0)
