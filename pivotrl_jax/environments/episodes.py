"""Whole episodes: many dialogues at once, with the actions drawn by the project's own sampler."""

import dataclasses
import zlib
from collections import deque
from collections.abc import Sequence
from functools import partial

import jax
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
from pivotrl_jax.parallel import from_first
from pivotrl_jax.sampling import DeviceCalls, EngineSettings, Sample, SamplingSettings, Session
from pivotrl_jax.trajectories import Message


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
    device: DeviceCalls = jax.profiler.TraceAnnotation,
) -> list[Played]:
    """Plays `samples` episodes of every task, in the order of the tasks.

    `engine.rows` episodes are played at a time, and one that ends makes way for the next. The draws
    of an episode depend on `key`, its task's id, the sample's number and the turn, not on the
    batch. With `sampling.top_k = 1` the policy is greedy.

    Raises UserError for a chat template that rewrites earlier turns (see `dialogue.continued`).
    """
    room = limits.trunk_tokens - sampling.max_tokens
    everyone = [
        _begun(environment, task, number, chat_format, room)
        for task in tasks
        for number in range(samples)
    ]
    waiting = deque(each for each in everyone if each.ending is None)
    session = Session(
        params,
        cfg,
        min(engine.rows, len(waiting)),
        limits.trunk_tokens,
        key,
        chat_format.tokenizer.ends,
        sampling,
        engine.chunk,
        mesh,
        device,
    )
    _finish(waiting, session, limits, room)
    return [_played(each) for each in everyone]


def _finish(waiting: deque[_Running], session: Session, limits: EpisodeSettings, room: int) -> None:
    """Plays episodes to their end, each in a row of its own."""
    playing: dict[int, _Running] = {}
    free = deque(range(session.rows))
    while waiting or playing:
        while waiting and free:
            row = free.popleft()
            playing[row] = waiting.popleft()
            _ask(session, row, playing[row])
        for row, drawn in session.step():
            with jax.profiler.TraceAnnotation("environment"):
                _take(playing[row], drawn, limits, room)
            if playing[row].ending is None:
                _ask(session, row, playing[row])
            else:
                del playing[row]
                free.append(row)


def _begun(
    environment: Environment, task: Task, number: int, chat_format: ChatFormat, room: int
) -> _Running:
    episode, feedback = environment.reset(task)
    dialogue = opened(chat_format, environment.tools, feedback.messages)
    ending: Ending | None = "tokens" if len(dialogue.tokens) > room else None
    return _Running(task, number, episode, dialogue, feedback.score, ending)


def _ask(session: Session, row: int, each: _Running) -> None:
    """Asks for the episode's next action; its row has read all up to the one before."""
    kept = each.moves[-1].start if each.moves else 0
    candidate = zlib.crc32(each.task.id.encode())
    session.ask(row, each.dialogue.tokens, kept, len(each.moves), candidate, each.sample)


def _take(each: _Running, drawn: Sample, limits: EpisodeSettings, room: int) -> None:
    """Carries an action out. One that the token cap cut off ends the episode, and is not.

    Of several processes the first one carries it out and tells the others what came of it.
    """
    dialogue = each.dialogue
    text, parsed = dialogue.chat_format.read(drawn.tokens)
    said = Message("assistant", parsed.action.text, parsed.action.calls, parsed.reasoning or None)
    feedback = (
        Feedback((), score=each.score, valid=False)
        if drawn.truncated
        else from_first(partial(each.episode.step, parsed.action))
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
