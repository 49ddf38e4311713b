"""Episodes of scripted policies: what becomes of their tokens, and how episodes end."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.environments import (
    ChatFormat,
    EpisodeSettings,
    InterCodeSql,
    Played,
    Task,
    episodes,
    play,
)
from pivotrl_jax.errors import UserError
from pivotrl_jax.sampling import EngineSettings, Sample, SamplingSettings
from pivotrl_jax.text import ChatTemplate, Clip, RenderSettings, render
from pivotrl_jax.trajectories import Trajectory, read

DATA = Path(__file__).parents[2] / "experiments/data/sql"
SAMPLING = SamplingSettings(max_tokens=12)
ENGINE = EngineSettings(rows=4)
ROOMY = EpisodeSettings(turns=10, trunk_tokens=10**6)


@pytest.fixture(scope="module")
def sessions(environment: InterCodeSql) -> list[tuple[Task, Trajectory]]:
    """Expert sessions of four to eight turns that succeed here, too."""
    tasks = {task.id: task for task in environment.questions}
    found = read(DATA / "intercode_sql_gpt4_success.jsonl.gz", limit=60)[0]
    known = [(tasks[each.task_id], each) for each in found if each.task_id in tasks]
    return [(task, each) for task, each in known if 10 <= len(each.messages) <= 18]


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, environment: InterCodeSql, chat: ChatFormat
) -> Callable[..., Played]:
    """Plays one episode whose actions are given as tokens; without an end they are cut off."""

    def script(
        task: Task,
        actions: Sequence[Sequence[int]],
        chat: ChatFormat = chat,
        limits: EpisodeSettings = ROOMY,
    ) -> Played:
        left = list(actions)

        class Scripted:
            """A session of one row; it must be asked for what is new, and only for that."""

            rows = 1
            held = np.zeros(0, np.int32)
            asked = False

            def __init__(self, *_: object) -> None: ...

            def ask(self, row: int, history: np.ndarray, kept: int, *numbers: int) -> None:
                assert not self.asked
                assert (row, numbers) == (
                    0,
                    (len(actions) - len(left), zlib.crc32(task.id.encode()), 0),
                )
                assert kept == len(self.held)
                np.testing.assert_array_equal(history[:kept], self.held)
                self.held, self.asked = history, True

            def step(self) -> list[tuple[int, Sample]]:
                assert self.asked
                self.asked = False
                tokens = np.array(left.pop(0), np.int32)
                logp = np.zeros(len(tokens), np.float32)
                return [(0, Sample(tokens, logp, logp, tokens[-1] != chat.tokenizer.eot))]

        monkeypatch.setattr(episodes, "Session", Scripted)
        (one,) = play(
            None, None, environment, [task], 1, jax.random.key(0), chat, limits,
            SAMPLING, ENGINE, None,
        )  # type: ignore[arg-type]  # fmt: skip
        return one

    return script


def expert_tokens(session: Trajectory, chat: ChatFormat) -> list[list[int]]:
    encode, fmt = chat.tokenizer.encode, chat.fmt
    turns = [m.action for m in session.messages if m.role == "assistant"]
    return [[*encode(fmt.print(action)), chat.tokenizer.eot] for action in turns]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("role", ["user", "tool"])
def test_expert_sessions_have_the_tokens_that_render_gives_them(
    script: Callable[..., Played],
    sessions: list[tuple[Task, Trajectory]],
    chat: ChatFormat,
    role: str,
) -> None:
    settings = RenderSettings(tool_role=role)  # type: ignore[arg-type]
    chat = dataclasses.replace(chat, template=ChatTemplate(CHATML), settings=settings)
    won = 0
    for task, session in sessions[:8]:
        one = script(task, expert_tokens(session, chat), chat)
        shown = dataclasses.replace(session, messages=one.messages)
        (trunk,) = render(
            shown, chat.tokenizer, chat.template, chat.fmt, chat.clip, 10**6, settings
        ).trunks
        np.testing.assert_array_equal(one.tokens, trunk.tokens)
        assert [(m.start, m.end) for m in one.moves] == [(s.start, s.end) for s in trunk.spans]
        assert [m.action for m in one.messages[2::2]] == [
            m.action for m in session.messages[2 : len(one.messages) : 2]
        ]
        won += (one.ending, one.score) == ("done", 1.0)
        assert not any(move.malformed for move in one.moves)
    assert won == 8


def test_sampled_tokens_stay_as_they_are(
    script: Callable[..., Played], sessions: list[tuple[Task, Trajectory]], chat: ChatFormat
) -> None:
    """Letter by letter, an action has other tokens than the tokenizer gives its text."""
    task, session = sessions[0]
    expert = expert_tokens(session, chat)
    text = chat.tokenizer.decode(expert[0][:-1])
    spelled = [t for c in text for t in chat.tokenizer.encode(c)] + [chat.tokenizer.eot]
    assert len(spelled) > len(expert[0])
    plain, odd = script(task, expert), script(task, [spelled, *expert[1:]])
    assert odd.tokens[odd.moves[0].start : odd.moves[0].end].tolist() == spelled
    assert odd.messages == plain.messages
    longer = len(spelled) - len(expert[0])
    np.testing.assert_array_equal(
        odd.tokens[odd.moves[0].end :], plain.tokens[plain.moves[0].end :]
    )
    assert [m.start for m in odd.moves[1:]] == [m.start + longer for m in plain.moves[1:]]


@pytest.mark.parametrize(
    ("text", "malformed", "valid"),
    [
        ("```sql\nSHOW TABLES\n```", False, True),
        ("  Let me see.\n\n```sql\nSHOW TABLES\n```\nThat is all.  ", True, True),
        ("```sql\nSELECT x FROM y\n```", False, False),
        ("The answer is 6.", True, False),
        ("", True, False),
        (" \n ", True, False),
        ("<think>\nHm.\n</think>\n\n```sql\nSHOW TABLES\n```", False, True),
        ("```sql\nSELECT '<|im_start|>'\n```", False, True),
        ("{{ messages }}{% endfor %}", True, False),
    ],
)
def test_whatever_a_policy_says_the_answer_follows_it(
    script: Callable[..., Played],
    sessions: list[tuple[Task, Trajectory]],
    chat: ChatFormat,
    text: str,
    malformed: bool,
    valid: bool,
) -> None:
    chat = dataclasses.replace(chat, template=ChatTemplate(CHATML), clip=Clip())
    task = sessions[0][0]
    encode, eot = chat.tokenizer.encode, chat.tokenizer.eot
    own = [*encode(text), eot]
    one = script(task, [own, own], chat, EpisodeSettings(2, 10**6))
    assert [(m.malformed, m.valid) for m in one.moves] == [(malformed, valid)] * 2
    first, second = one.moves
    answer = next(m.content for m in one.messages[3:] if m.role != "assistant")
    shown = f"\n<|im_start|>user\n{answer}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.tokenizer.decode(one.tokens[first.end : second.start]) == shown
    assert one.tokens[first.start : first.end].tolist() == own
    assert one.tokens[second.start :].tolist() == own


def test_an_end_of_turn_that_is_spelled_out_changes_nothing(
    script: Callable[..., Played], sessions: list[tuple[Task, Trajectory]], chat: ChatFormat
) -> None:
    encode, eot = chat.tokenizer.encode, chat.tokenizer.eot
    spelled = [t for c in "```sql\nSELECT '<|im_end|>'\n```" for t in encode(c)] + [eot]
    one = script(sessions[0][0], [spelled, spelled], limits=EpisodeSettings(2, 10**6))
    first, second = one.moves
    assert "<|im_end|>" in first.text
    between = chat.tokenizer.decode(one.tokens[first.end : second.start])
    assert between.startswith("\n<|im_start|>user\n[(")


@pytest.mark.parametrize(
    ("turns", "room", "moves", "ending"),
    [(2, 10**6, 2, "turns"), (10, "second", 1, "tokens"), (10, "first", 0, "tokens")],
)
def test_caps_end_an_episode(
    script: Callable[..., Played],
    sessions: list[tuple[Task, Trajectory]],
    chat: ChatFormat,
    turns: int,
    room: int | str,
    moves: int,
    ending: str,
) -> None:
    task, session = sessions[0]
    actions = expert_tokens(session, chat)
    whole = script(task, actions)
    if isinstance(room, str):
        # One token too few for an action of the longest kind.
        room = whole.moves[moves].start + SAMPLING.max_tokens - 1
    one = script(task, actions, limits=EpisodeSettings(turns, room))
    assert (len(one.moves), one.ending, one.score) == (moves, ending, 0.0)
    end = whole.moves[moves - 1].end if moves else whole.moves[0].start
    np.testing.assert_array_equal(one.tokens, whole.tokens[:end])
    if isinstance(room, int) and ending == "tokens":
        more = script(task, actions, limits=EpisodeSettings(turns, room + 1))
        assert len(more.moves) > moves


def test_an_action_that_is_cut_off_is_not_carried_out(
    script: Callable[..., Played], sessions: list[tuple[Task, Trajectory]], chat: ChatFormat
) -> None:
    task, session = sessions[0]
    expert = expert_tokens(session, chat)
    one = script(task, [*expert[:-1], expert[-1][:-1]])
    assert (one.ending, one.score, len(one.moves)) == ("truncated", 0.0, len(expert))
    assert not one.moves[-1].valid
    assert one.messages[-1].role == "assistant"
    assert script(task, expert).score == 1.0


def test_a_template_that_rewrites_earlier_turns_is_refused(
    script: Callable[..., Played], sessions: list[tuple[Task, Trajectory]], chat: ChatFormat
) -> None:
    last = "{{ '<think></think>' if loop.last and m.role == 'assistant' else '' }}"
    forgetful = ChatTemplate(CHATML.replace("{{ m.content", f"{last}{{{{ m.content"))
    task, session = sessions[0]
    odd = dataclasses.replace(chat, template=forgetful)
    with pytest.raises(UserError, match="rewrites earlier turns"):
        script(task, expert_tokens(session, chat), odd)


def test_an_episode_has_a_turn() -> None:
    with pytest.raises(UserError, match="set turns to 1 or more"):
        EpisodeSettings(turns=0)
