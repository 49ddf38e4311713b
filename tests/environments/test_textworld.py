"""Playing TextWorld games: what is said, what is understood, experts and weak players."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.environments import Environment, Episode
from pivotrl_jax.environments.textworld import TextWorldGames, begin, task_of
from pivotrl_jax.environments.textworld_build import build, grounded
from pivotrl_jax.environments.textworld_expert import Style, best, write_expert, write_weak
from pivotrl_jax.environments.textworld_games import generate
from pivotrl_jax.environments.textworld_house import EASY, HARD, MEDIUM, House, Way
from pivotrl_jax.environments.textworld_text import answer, opening, view
from pivotrl_jax.text import action_format
from pivotrl_jax.trajectories import Action, ToolCall, Trajectory, read
from pivotrl_jax.verifiers.textworld import (
    TEMPLATES,
    Deed,
    Game,
    Plans,
    State,
    canonical,
    commands,
    normal,
    write_games,
)

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
GAME = grounded(build(HOUSE), "train")
GAMES = [
    game for level in (EASY, MEDIUM, HARD)
    for game in generate(level, {"train": 3, "validation": 1, "test": 1}, seed=3)
]  # fmt: skip
BY_ID = {game.id: game for game in GAMES}

DIALOGUE = [
    ("look", "You are in the hall. The box is closed. On the floor: apple. North: oak door "
             "(locked) to the study."),
    ("inventory", "You carry: nothing."),
    ("go north", "You cannot do that now."),
    ("open oak door", "You cannot do that now."),
    ("dance", "That is not a command."),
    ("take the apple", "You take the apple."),
    ("open box", "You open the box. In the box: pear, brass key."),
    ("get pear from box", "You take the pear."),
    ("grab brass key", "You take the brass key."),
    ("i", "You carry: apple, pear, brass key."),
    ("look", "You are in the hall. In the box: nothing. North: oak door (locked) to the study."),
    ("use brass key on oak door", "You unlock the oak door with the brass key."),
    ("Open the oak door.", "You open the oak door."),
    ("n", "You are in the study. On the table: coin. South: oak door (open) to the hall."),
    ("place apple on table", "You put the apple on the table. 1 of 2 goals done."),
    ("put down brass key", "You drop the brass key."),
    ("look around", "You are in the study. On the table: apple, coin. On the floor: brass key. "
                    "South: oak door (open) to the hall."),
    ("shut oak door", "You close the oak door."),
    ("eat pear", "You eat the pear. You have won."),
    ("look", "You cannot do that now."),
]  # fmt: skip


def test_a_dialogue() -> None:
    episode, said = begin(GAME)
    assert said.messages[0].content == (
        "Goals: Put the apple on the table. Eat the pear.\n"
        "The apple is in the hall. The table is in the study. The pear is in the box in the hall. "
        "The brass key is in the box in the hall.\n"
        "The brass key opens the oak door.\n"
        "Map: The study is north of the hall, behind the oak door.\n"
        "You are in the hall. The box is closed. On the floor: apple. North: oak door (locked) to "
        "the study."
    )
    scores = []
    for command, told in DIALOGUE:
        said = episode.step(Action(command))
        assert [message.content for message in said.messages] == [told]
        assert said.valid == (told not in ("You cannot do that now.", "That is not a command."))
        scores.append(said.score)
    assert said.done
    assert scores == [0.0] * 14 + [0.5] * 4 + [1.0] * 2
    assert episode.legal == []


def test_a_lost_game_is_over() -> None:
    episode, _ = begin(GAME)
    said = [episode.step(Action(each)) for each in ("take apple", "eat apple", "go north")]
    assert said[1].messages[0].content == "You eat the apple. You have lost."
    assert [(each.done, each.score) for each in said] == [(False, 0), (True, 0), (True, 0)]


def walks(count: int, steps: int = 12) -> Iterator[tuple[Game, State]]:
    """States of random plays."""
    for number in range(count):
        rng = Random(number)
        game = rng.choice(GAMES)
        episode, _ = begin(game)
        for _ in range(steps):
            if not (legal := episode.legal):
                break
            yield game, episode.state
            episode.step(Action(rng.choice(legal)))


def in_sight(game: Game, state: State) -> tuple[str, ...]:
    """The facts about the player's room, what is there and in it, and the doors."""
    facts = list(game.holding(state))
    room = next(fact[2] for fact in facts if fact[:2] == ("at", "you"))
    here = {room} | {fact[1] for fact in facts if fact[0] == "at" and fact[2] == room}
    here |= {fact[2] for fact in facts if fact[:2] == ("link", room)}
    here -= {"you"}
    shut = {fact[1] for fact in facts if fact[0] in ("closed", "locked")}
    states = [f for f in facts if f[0] in ("open", "closed", "locked") and f[1] in here]
    places = [f for f in facts if f[0] in ("at", "on", "in") and f[2] in here - shut]
    return tuple(sorted(map(str, states + places)))


def test_what_is_in_sight_is_told_and_nothing_else() -> None:
    told: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    texts: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for game, state in walks(40):
        text, sight = view(game, state), in_sight(game, state)
        told.setdefault((game.id, text), set()).add(sight)
        texts.setdefault((game.id, sight), set()).add(text)
    assert len(told) == len(texts) > 100


@pytest.mark.parametrize("written", ["{}", "  {}.\n", "{}!"])
@pytest.mark.parametrize("article", ["", "the ", "The  "])
def test_every_wording_of_every_command_does_the_same(written: str, article: str) -> None:
    for game, state in walks(6):
        for deed in game.possible(state):
            names = [f"{article if deed.verb != 'go' else ''}{name}" for name in deed.names]
            for template in TEMPLATES[deed.verb, len(deed.names)]:
                episode, _ = begin(game)
                episode.state = state
                said = episode.step(Action(written.format(template.format(*names))))
                assert said.valid
                assert episode.state == game.after(state, deed)
                assert said.messages[0].content == answer(game, state, deed)


def test_legal_commands_are_all_that_are_understood() -> None:
    """Whatever any wording of the game could mean, it is done exactly where it is legal."""
    for game, state in walks(6):
        legal = set(commands(game, state))
        for deed in game.deeds:
            command = canonical(deed.verb, deed.names)
            episode, _ = begin(game)
            episode.state = state
            said = episode.step(Action(command))
            # "take pear" stands for "take pear from box" where that is what can be done.
            meant = {canonical(d.verb, d.names) for d in game.understood(command)}
            assert said.valid == bool(meant & legal), command


HOSTILE = [
    "", " ", "\n", ".", "the", "take", "take ", "take the", "put on", "{0}", "{}", "%s", "\x00",
    "go north\ngo north", "go north; take apple", "take apple and take pear", "ta ke apple",
    "take apple" * 10_000, "a" * 1_000_000, "the " * 100_000, "go \ud800", "İNVENTORY", "__class__",
    "<tool_call>", "take apple from", "take box", "eat table", "unlock oak door with apple",
    "put apple in box on table", "go nowhere", "ｌｏｏｋ", "open study",
]  # fmt: skip


WORDS = [
    "go", "take", "put", "open", "apple", "pear", "box", "the", "north", "n", "look", "on", "in",
    "with", "oak", "door", "from", ".", "\n",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_nothing(text: str) -> None:
    episode, _ = begin(GAME)
    said = episode.step(Action(text))
    assert (said.valid, said.done, said.score) == (False, False, 0.0)
    assert episode.state == GAME.start
    assert len(said.messages[0].content) < 40


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_answered(text: str) -> None:
    episode, _ = begin(GAME)
    said = episode.step(Action(text))
    assert said.valid or episode.state == GAME.start
    assert said.messages[0].role == "user"
    assert said.messages[0].content


def test_a_call_is_no_command() -> None:
    episode, _ = begin(GAME)
    said = episode.step(Action("look", (ToolCall("look", {}),)))
    assert not said.valid
    assert said.messages[0].content == "That is not a command."


def test_tasks_are_the_games_of_a_split(tmp_path: Path) -> None:
    write_games(GAMES, tmp_path / "games.jsonl")
    games: Environment = TextWorldGames(tmp_path / "games.jsonl")
    assert games.tools == ()
    tasks = {split: games.tasks(split) for split in ("train", "validation", "test")}
    assert [len(own) for own in tasks.values()] == [9, 3, 3]
    groups = [{task.group for task in own} for own in tasks.values()]
    assert len(set.union(*groups)) == 15
    for task in tasks["test"]:
        first, second = (games.reset(task) for _ in range(2))
        assert first[1] == second[1]
        assert first[1].messages[0].content == opening(BY_ID[task.facts["game"]])
        episode: Episode = first[0]
        episode.step(Action((episode.legal or [])[0]))
        assert second[0].legal == games.reset(task)[0].legal


def expert(path: Path, style: int) -> list[Trajectory]:
    write_expert(GAMES, Style(style), path)
    return read(path)[0]


def test_experts_win_every_game_by_a_shortest_way(tmp_path: Path) -> None:
    trajectories = expert(tmp_path / "expert.jsonl", 0)
    assert [each.facts["game"] for each in trajectories] == [*BY_ID]
    for trajectory in trajectories:
        game = BY_ID[trajectory.facts["game"]]
        plans = Plans(game)
        episode, said = begin(game)
        messages, left = [*said.messages], [plans.left(game.start)]
        for message in trajectory.messages:
            if message.role == "assistant":
                assert not said.done
                said = episode.step(message.action)
                assert said.valid
                messages += [message, *said.messages]
                left.append(plans.left(episode.state))
        assert (said.done, said.score) == (True, 1.0)
        assert trajectory.reward == 1.0
        assert tuple(messages) == trajectory.messages
        assert left == [*range(len(left))][::-1]
        assert trajectory.task_id == task_of(game).group


def turns(trajectories: list[Trajectory]) -> list[list[str]]:
    return [[m.content for m in t.messages if m.role == "assistant"] for t in trajectories]


def test_a_style_words_and_chooses_alike_in_every_game(tmp_path: Path) -> None:
    wordings: dict[tuple[str, int], set[str]] = {}
    choices: dict[frozenset[str], set[str]] = {}
    for game, said in zip(GAMES, turns(expert(tmp_path / "expert.jsonl", 5)), strict=True):
        state, plans = game.start, Plans(game)
        for command in said:
            deeds = best(game, plans, state)
            deed = Style(5).first(deeds)
            assert game.obeyed(state, command) == deed == Style(5).first(deeds[::-1])
            good = {canonical(deed.verb, deed.names) for deed in deeds}
            templates = TEMPLATES[deed.verb, len(deed.names)]
            used = {each for each in templates if each.format(*deed.names) == normal(command)}
            wordings.setdefault((deed.verb, len(deed.names)), set()).update(used)
            choices.setdefault(frozenset(good), set()).add(canonical(deed.verb, deed.names))
            state = game.after(state, deed)
    assert len(wordings) > 5
    assert {len(used) for used in wordings.values()} == {1}
    assert sum(len(good) > 1 for good in choices) > 20
    assert {len(chosen) for chosen in choices.values()} == {1}


def test_styles_differ_in_words_and_in_order(tmp_path: Path) -> None:
    played = [turns(expert(tmp_path / f"{style}.jsonl", style)) for style in range(3)]
    for one, other in itertools.combinations(played, 2):
        assert [len(said) for said in one] == [len(said) for said in other]
        words = [pair for said in zip(one, other, strict=True) for pair in zip(*said, strict=True)]
        assert sum(a != b for a, b in words) > len(words) / 4
        orders = [
            [understood(game, command) for game, said in zip(GAMES, games, strict=True)
             for command in said]
            for games in (one, other)
        ]  # fmt: skip
        assert sum(a != b for a, b in zip(*orders, strict=True)) > len(orders[0]) / 4


def test_there_is_a_style_for_every_wording() -> None:
    for (verb, count), templates in TEMPLATES.items():
        names = ("north",) if verb == "go" else ("pear", "shelf")[:count]
        said = {normal(Style(seed).words(Deed(verb, names, needs=0))) for seed in range(60)}
        assert said == {template.format(*names) for template in templates}


def understood(game: Game, command: str) -> set[str]:
    return {canonical(deed.verb, deed.names) for deed in game.understood(command)}


def test_weak_players_win_less_the_noisier_they_are(tmp_path: Path) -> None:
    won = []
    for noise in (0.0, 0.3, 1.0):
        path = tmp_path / f"{noise}.jsonl"
        write_weak(GAMES, [Style(7), Style(8)], noise, path, plays=2, most_turns=18)
        trajectories, audit = read(path)
        assert audit.read == 2 * len(GAMES)
        assert all(len(said) <= 18 for said in turns(trajectories))
        for trajectory in trajectories:
            episode, said = begin(BY_ID[trajectory.facts["game"]])
            for message in trajectory.messages[1::2]:
                said = episode.step(message.action)
                assert said.valid
            assert said.score == trajectory.reward
        won.append(sum(each.reward == 1 for each in trajectories))
    assert won[0] == 2 * len(GAMES)
    assert won[0] > won[1] > won[2]


@pytest.mark.parametrize("name", ["hermes", "json"])
def test_commands_are_plain_text_in_formats_that_have_messages(name: str) -> None:
    fmt = action_format(name)
    for game, state in walks(5):
        for command in commands(game, state):
            assert fmt.print(Action(command)) == command
            assert fmt.parse(command).action == Action(command)
            assert fmt.parse(command).problems == ()
