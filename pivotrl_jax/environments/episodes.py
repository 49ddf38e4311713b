"""Whole episodes: many dialogues at once, with the actions drawn by the project's own sampler."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from pivotrl_jax.environments.dialogue import ChatFormat, Dialogue, continued, ended, opened
from pivotrl_jax.environments.types import (
    Ending,
    Environment,
    Episode,
    Feedback,
    Move,
    Played,
    Task,
)
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, sample
from pivotrl_jax.trajectories import Message

Served = Iterator[tuple[int, list[Sample]]]


@dataclasses.dataclass(frozen=True)
class EpisodeSettings:
    """An episode ends after `turns` actions, and where `trunk_tokens` have no room for another
    action of the longest kind."""

    turns: int = 10
    trunk_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise UserError(
                f"an episode of {self.turns} turns has no action: set turns to 1 or more"
            )


@dataclasses.dataclass
class _Running:
    """An episode that is being played."""

    task: Task
    sample: int
    episode: Episode
    dialogue: Dialogue
    score: float
    ending: Ending | None = None
    moves: list[Move] = dataclasses.field(default_factory=list)


def play(
    params: Params,
    cfg: ModelConfig,
    environment: Environment,
    tasks: Sequence[Task],
    samples: int,
    key: PRNGKeyArray,
    chat_format: ChatFormat,
    limits: EpisodeSettings,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
) -> list[Played]:
    """Plays `samples` episodes of every task, in the order of the tasks.

    All take their next action together, until all have ended. The draws of an episode depend on
    `key`, its task's id, the sample's number and the turn, not on the batch. With
    `sampling.top_k = 1` the policy is greedy. Every round but the first has one row of the engine
    for each episode: `engine.rows` of them are decoded at a time.

    Raises UserError for a chat template that rewrites earlier turns (see `dialogue.continued`).
    """
    room = limits.trunk_tokens - sampling.max_tokens
    running = [
        [_begun(environment, task, number, chat_format, room) for number in range(samples)]
        for task in tasks
    ]
    everyone = [each for group in running for each in group]
    draw = partial(
        sample,
        params,
        cfg,
        ends=chat_format.tokenizer.ends,
        sampling=sampling,
        engine=engine,
        mesh=mesh,
    )
    for turn in range(limits.turns):
        # The samples of a task still have one history in the first round.
        groups = running if turn == 0 else [[each] for each in everyone]
        going = [group for group in groups if group[0].ending is None]
        if not going:
            break
        own_key = jax.random.fold_in(key, jax.device_put(np.uint32(turn)))
        for each, drawn in _actions(going, own_key, draw, engine.rows):
            _take(each, drawn, limits, room)
    return [_played(each) for each in everyone]


def _begun(
    environment: Environment, task: Task, number: int, chat_format: ChatFormat, room: int
) -> _Running:
    episode, feedback = environment.reset(task)
    dialogue = opened(chat_format, environment.tools, feedback.messages)
    ending: Ending | None = "tokens" if len(dialogue.tokens) > room else None
    return _Running(task, number, episode, dialogue, feedback.score, ending)


def _actions(
    groups: Sequence[Sequence[_Running]],
    key: PRNGKeyArray,
    draw: Callable[..., Served],
    rows: int,
) -> Iterator[tuple[_Running, Sample]]:
    """The next action of every episode; those of a group have one history, which is read once."""
    trunks = [group[0].dialogue.tokens for group in groups]
    requests = [
        [
            Request(len(trunk), len(trunk), zlib.crc32(each.task.id.encode()), each.sample)
            for each in group
        ]
        for trunk, group in zip(trunks, groups, strict=True)
    ]
    # Fewer episodes in fewer rows would be another shape, to be compiled anew. Rows that count as
    # done cost no prefill.
    idle = range(len(groups), len(groups) + -len(groups) % rows)
    for number, drawn in draw(trunks, requests + [[] for _ in idle], key, done=idle):
        yield from zip(groups[number], drawn, strict=True)


def _take(each: _Running, drawn: Sample, limits: EpisodeSettings, room: int) -> None:
    """Carries an action out. One that the token cap cut off ends the episode, and is not."""
    dialogue = each.dialogue
    text, parsed = dialogue.chat_format.read(drawn.tokens)
    said = Message("assistant", parsed.action.text, parsed.action.calls, parsed.reasoning or None)
    feedback = (
        Feedback((), score=each.score, valid=False)
        if drawn.truncated
        else each.episode.step(parsed.action)
    )
    start = len(dialogue.tokens)
    each.moves.append(
        Move(
            start,
            start + len(drawn.tokens),
            drawn.behaviour,
            drawn.plain,
            malformed=bool(parsed.problems),
            valid=feedback.valid,
            text=text,
        )
    )
    each.score = feedback.score
    each.ending = _ending(each, drawn, feedback, limits)
    if each.ending is None:
        each.dialogue = continued(dialogue, drawn.tokens, said, feedback.messages)
        each.ending = "tokens" if len(each.dialogue.tokens) > room else None
    else:
        each.dialogue = ended(dialogue, drawn.tokens, said, feedback.messages)


def _ending(
    each: _Running, drawn: Sample, feedback: Feedback, limits: EpisodeSettings
) -> Ending | None:
    if drawn.truncated:
        return "truncated"
    if feedback.done:
        return "done"
    return "turns" if len(each.moves) == limits.turns else None


def _played(each: _Running) -> Played:
    """The tokens end with the last move: what is answered to it, nobody reads."""
    assert each.ending is not None
    dialogue = each.dialogue
    end = each.moves[-1].end if each.moves else len(dialogue.tokens)
    return Played(
        each.task,
        each.sample,
        dialogue.tokens[:end],
        tuple(each.moves),
        dialogue.messages,
        each.score,
        each.ending,
    )
