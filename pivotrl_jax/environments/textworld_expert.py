"""Played TextWorld games as trajectory files: an expert with a style, and weaker players."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from pivotrl_jax.environments.textworld import begin
from pivotrl_jax.trajectories import Action, Message, Trajectory, write_openai_chat
from pivotrl_jax.verifiers.textworld import TEMPLATES, Deed, Game, Plans, State


@dataclasses.dataclass(frozen=True)
class Style:
    """What a player prefers where several choices are as good, the same in every game.

    Which verb, thing, place or direction comes first, how a command is worded, and whether names
    have an article. Another `seed` is another style.
    """

    seed: int

    def first(self, deeds: Iterable[Deed]) -> Deed:
        return min(deeds, key=lambda deed: [self._rank(word) for word in (deed.verb, *deed.names)])

    def words(self, deed: Deed) -> str:
        template = min(TEMPLATES[deed.verb, len(deed.names)], key=self._rank)
        article = "the " if deed.verb != "go" and self._rank("the") % 2 else ""
        return template.format(*(f"{article}{name}" for name in deed.names))

    def _rank(self, word: str) -> int:
        # Not `hash`, which differs from process to process.
        digest = hashlib.sha256(f"{self.seed}/{word}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


def best(game: Game, plans: Plans, state: State) -> list[Deed]:
    """The possible deeds after which the shortest plan is shortest."""
    left = {deed: plans.left(game.after(state, deed)) for deed in game.possible(state)}
    shortest = min(left.values())
    return [deed for deed in left if left[deed] == shortest]


def write_expert(games: Iterable[Game], style: Style, path: Path) -> None:
    """Writes a shortest way through each game, in one style."""
    player = _Player(style, 0.0, Random(0))
    write_openai_chat((_played(game, game.id, player, math.inf) for game in games), path)


def write_weak(
    games: Iterable[Game],
    styles: Sequence[Style],
    noise: float,
    path: Path,
    plays: int = 1,
    most_turns: int = 20,
    seed: int = 0,
) -> None:
    """Writes `plays` of each game, each in one of the styles and at most `most_turns` long.

    A command is with probability `noise` any possible one, else one of a shortest plan.
    """

    def played(game: Game, play: int) -> Trajectory:
        rng = Random(f"{seed}/{game.id}/{play}")
        player = _Player(rng.choice(styles), noise, rng)
        return _played(game, f"{game.id}/{play}", player, most_turns)

    write_openai_chat((played(game, play) for game in games for play in range(plays)), path)


@dataclasses.dataclass(frozen=True)
class _Player:
    style: Style
    noise: float
    rng: Random

    def choose(self, game: Game, plans: Plans, state: State) -> Deed:
        if self.rng.random() < self.noise:
            return self.rng.choice(list(game.possible(state)))
        return self.style.first(best(game, plans, state))


def _played(game: Game, name: str, player: _Player, most_turns: float) -> Trajectory:
    plans = Plans(game)
    episode, said = begin(game)
    messages = [*said.messages]
    while not said.done and len(messages) < 2 * most_turns:
        command = player.style.words(player.choose(game, plans, episode.state))
        said = episode.step(Action(command))
        messages += [Message("assistant", command), *said.messages]
    return Trajectory(
        id=name,
        messages=tuple(messages),
        task_id=game.id,
        domain="textworld",
        source="",
        reward=said.score,
        facts={"game": game.id},
    )
