"""Played TextWorld games as trajectory files: an expert with a style, and weaker players."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from pivotrl_jax.environments.textworld import begin
from pivotrl_jax.trajectories import Action, Message, Trajectory, write_openai_chat
from pivotrl_jax.verifiers.textworld import TEMPLATES, Deed, Game, Plans, State

# From the deeds of shortest plans and all that are possible, the one to do.
Choose = Callable[[Sequence[Deed], Sequence[Deed]], Deed]


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
    return [deed for deed in left if left[deed] == min(left.values())]


def write_expert(games: Iterable[Game], style: Style, path: Path) -> None:
    """Writes a shortest way through each game, in one style."""
    played = (_played(game, game.id, style, lambda good, _: style.first(good)) for game in games)
    write_openai_chat(played, path)


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
        style = rng.choice(styles)

        def choose(good: Sequence[Deed], possible: Sequence[Deed]) -> Deed:
            return rng.choice(possible) if rng.random() < noise else style.first(good)

        return _played(game, f"{game.id}/{play}", style, choose, most_turns)

    write_openai_chat((played(game, play) for game in games for play in range(plays)), path)


def _played(
    game: Game, name: str, style: Style, choose: Choose, most_turns: float = math.inf
) -> Trajectory:
    plans = Plans(game)
    episode, said = begin(game)
    messages = [*said.messages]
    while not said.done and len(messages) < 2 * most_turns:
        deed = choose(best(game, plans, episode.state), list(game.possible(episode.state)))
        command = style.words(deed)
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
