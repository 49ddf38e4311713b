"""Commands in TextWorld games are as good as the plans that remain after them."""

import math
import pickle
from collections import deque
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.environments.textworld_expert import Style, write_expert
from pivotrl_jax.environments.textworld_games import generate
from pivotrl_jax.environments.textworld_house import EASY, MEDIUM, Difficulty
from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import compile_recipe
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import Action, Context, Message, ToolCall, Trajectory, read
from pivotrl_jax.verifiers import Verdict, Verifier, verifier
from pivotrl_jax.verifiers.recipe import Recipe, reward
from pivotrl_jax.verifiers.recipes import DEFAULT, SAME_PROGRESS
from pivotrl_jax.verifiers.textworld import (
    Deed,
    Game,
    Goal,
    Plans,
    State,
    commands,
    read_games,
    write_games,
)

STRICT = Recipe("same_text", accept=(("exact", 1.0),))
# Doors and containers, locked and not; things to put and to eat; small enough to search wholly.
SMALL = [
    Difficulty(2, 1, 1, 1, 1, 1, 1, (3, 30)),
    Difficulty(2, 0, 1, 2, 1, 1, 0, (3, 30)),
    Difficulty(3, 1, 1, 0, 2, 1, 0, (3, 30)),
    Difficulty(2, 0, 0, 1, 1, 2, 0, (3, 30)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of games and one of an expert's plays."""
    path = tmp_path_factory.mktemp("textworld")
    games = [
        game for level in (*SMALL, EASY, MEDIUM) for game in generate(level, {"train": 2}, seed=0)
    ]
    write_games(games, path / "games.jsonl")
    write_expert(games, Style(0), path / "expert.jsonl")
    return path


@pytest.fixture(scope="module")
def rules(folder: Path) -> Verifier:
    return verifier("textworld", str(folder / "games.jsonl"))


@pytest.fixture(scope="module")
def experts(folder: Path) -> list[Trajectory]:
    return read(folder / "expert.jsonl")[0]


def shortest(game: Game) -> dict[State, float]:
    """The length of the shortest plan of every state, by breadth-first search with every command.

    Backwards from the won states over all that can be reached; what is missing cannot be won.
    """
    before: dict[State, set[State]] = {game.start: set()}
    reached = [game.start]
    for state in reached:
        for deed in game.possible(state):
            following = game.after(state, deed)
            if following not in before:
                before[following] = set()
                reached.append(following)
            before[following].add(state)
    lengths: dict[State, float] = {state: 0 for state in reached if game.won(state)}
    queue = deque(lengths)
    while queue:
        state = queue.popleft()
        for earlier in before[state]:
            if earlier not in lengths:
                lengths[earlier] = lengths[state] + 1
                queue.append(earlier)
    return {state: lengths.get(state, math.inf) for state in reached}


@pytest.mark.parametrize("difficulty", SMALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_plans_are_shortest_in_every_state(difficulty: Difficulty, seed: int) -> None:
    [game] = generate(difficulty, {"train": 1}, seed)
    lengths = shortest(game)
    plans = Plans(game)
    states = [*lengths]
    Random(seed).shuffle(states)  # results are kept, in whatever order they are asked for
    assert len(states) > 100
    assert [plans.left(state) for state in states] == [lengths[state] for state in states]


def test_nothing_wins_a_lost_game() -> None:
    """Though its goal is still within reach."""
    game = Game(
        id="",
        split="train",
        kinds={},
        facts=(("open", "box"), ("eaten", "pear")),
        start=0,
        deeds=(Deed("open", ("box",), needs=0, adds=1), Deed("eat", ("pear",), needs=0, adds=2)),
        goals=(Goal(wins=1, fails=2),),
    )
    lost = game.after(game.start, game.deeds[1])
    assert game.lost(lost)
    assert [Plans(game).left(state) for state in (game.start, lost)] == [1, math.inf]


def contexts(experts: list[Trajectory]) -> list[tuple[Action, Context]]:
    return [
        (message.action, trajectory.before(index))
        for trajectory in experts
        for index, message in enumerate(trajectory.messages)
        if message.role == "assistant"
    ]


def judged(rules: Verifier, expert: Action, command: str, context: Context) -> Verdict:
    verdict = rules(expert, ParsedAction(Action(command)), context)
    assert verdict.error is None
    return verdict


def test_accepted_is_what_leaves_no_longer_a_plan(
    rules: Verifier, experts: list[Trajectory], folder: Path
) -> None:
    games = read_games(folder / "games.jsonl")
    several = 0
    for trajectory in experts[: 2 * len(SMALL)]:
        game = games[trajectory.facts["game"]]
        lengths = shortest(game)
        state = game.start
        for expert, context in contexts([trajectory]):
            after = {
                command: game.after(state, deed)
                for command in commands(game, state)
                if (deed := game.obeyed(state, command))
            }
            deed = game.obeyed(state, expert.text)
            assert deed is not None
            allowed = lengths[game.after(state, deed)]
            good = {command for command in after if lengths[after[command]] <= allowed}
            accepted = {
                command for command in after
                if reward(SAME_PROGRESS, judged(rules, expert, command, context).criteria)
            }  # fmt: skip
            assert accepted == good
            several += len(good) > 1
            state = game.after(state, deed)
    assert several > 5


def test_the_default_recipe_fits(rules: Verifier) -> None:
    assert DEFAULT[rules.name] == SAME_PROGRESS
    compile_recipe(SAME_PROGRESS, rules.criteria)


def test_an_expert_accepts_itself(rules: Verifier, experts: list[Trajectory]) -> None:
    for expert, context in contexts(experts):
        verdict = judged(rules, expert, expert.text, context)
        assert set(verdict.criteria.values()) == {1.0}
        assert tuple(verdict.criteria) == rules.criteria


@pytest.fixture(scope="module")
def turn(experts: list[Trajectory]) -> tuple[Action, Context]:
    """A turn that takes something."""
    return next(
        (expert, context) for expert, context in contexts(experts)
        if len(context.history) > 2 and "You take the" in _answer(expert, context, experts)
    )  # fmt: skip


def _answer(expert: Action, context: Context, experts: list[Trajectory]) -> str:
    [own] = [each for each in experts if each.facts == context.facts]
    return own.messages[len(context.history) + 1].content


CASES = [
    ("{}", (1, 1, 1, 1)),
    ("  {}\n", (1, 1, 1, 1)),
    ("{upper}", (1, 1, 1, 1)),
    ("{}.", (1, 1, 1, 0)),
    ("look", (1, 1, 0, 0)),
    ("go up", (1, 0, 0, 0)),
    ("", (1, 0, 0, 0)),
    ("I would rather {}", (1, 0, 0, 0)),
    ("{}\n{}", (1, 0, 0, 0)),
    ("x" * 1_000_000, (1, 0, 0, 0)),
]


@pytest.mark.parametrize(("text", "wanted"), CASES)
def test_criteria(
    rules: Verifier, turn: tuple[Action, Context], text: str, wanted: tuple[int, ...]
) -> None:
    expert, context = turn
    text = text.replace("{}", expert.text).replace("{upper}", expert.text.upper())
    verdict = judged(rules, expert, text, context)
    assert tuple(verdict.criteria[name] for name in rules.criteria) == wanted
    assert reward(SAME_PROGRESS, verdict.criteria) == wanted[2]
    assert reward(STRICT, verdict.criteria) == wanted[3]


@pytest.mark.parametrize(
    "sampled",
    [
        ParsedAction(Action("look"), ("unclosed_think",)),
        ParsedAction(Action("look", (ToolCall("look", {}),))),
    ],
)
def test_no_command_was_parsed(
    rules: Verifier, turn: tuple[Action, Context], sampled: ParsedAction
) -> None:
    verdict = rules(turn[0], sampled, turn[1])
    assert verdict.error is None
    assert set(verdict.criteria.values()) == {0.0}
    assert verdict.reason in ("unclosed_think", "a call")


def test_the_history_counts_as_it_was_played(rules: Verifier, turn: tuple[Action, Context]) -> None:
    """Commands that failed and calls change nothing; those that did something, do."""
    expert, context = turn
    call = Message("assistant", expert.text, (ToolCall("take", {}),))
    failed = (Message("assistant", "go up"), Message("user", "That is not a command."), call)
    longer = Context((*context.history, *failed), facts=context.facts)
    assert rules(expert, ParsedAction(expert), longer) == rules(
        expert, ParsedAction(expert), context
    )
    taken = Context((*context.history, Message("assistant", expert.text)), facts=context.facts)
    verdict = rules(expert, ParsedAction(expert), taken)
    assert verdict.error == "the expert's command is not possible here"


@pytest.mark.parametrize("facts", [{}, {"game": "none"}, {"game": 3}, {"game": ["a"]}])
def test_without_its_game_a_sample_is_an_error(
    rules: Verifier, turn: tuple[Action, Context], facts: dict[str, object]
) -> None:
    verdict = rules(turn[0], ParsedAction(turn[0]), Context(turn[1].history, facts=facts))
    assert verdict.error
    assert not verdict.criteria


@given(text=st.text())
def test_any_text_gets_a_verdict(rules: Verifier, turn: tuple[Action, Context], text: str) -> None:
    verdict = rules(turn[0], ParsedAction(Action(text)), turn[1])
    assert verdict.error is None
    assert set(verdict.criteria.values()) <= {0.0, 1.0}


def test_another_process_judges_alike(rules: Verifier, turn: tuple[Action, Context]) -> None:
    sampled = ParsedAction(Action("look"))
    again = pickle.loads(pickle.dumps(rules))
    assert again(turn[0], sampled, turn[1]) == rules(turn[0], sampled, turn[1])


@pytest.mark.parametrize("games", [None, "", "nowhere.jsonl"])
def test_no_games_is_an_error_of_the_user(games: str | None) -> None:
    with pytest.raises(UserError, match="no games at"):
        verifier("textworld", games)
