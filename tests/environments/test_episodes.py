"""Episodes of a tiny policy and of scripted ones, on real questions."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
from pivotrl_jax.models import ModelConfig, Params, init
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings
from pivotrl_jax.text import (
    BpeTokenizer,
    ChatTemplate,
    Clip,
    FencedSql,
    RenderSettings,
    render,
)
from pivotrl_jax.training import token_logprobs
from pivotrl_jax.trajectories import Trajectory, read
from pivotrl_jax.trees import Layout, Tree, build_row

ROOT = Path(__file__).parents[2]
DATA = ROOT / "experiments/data/sql"
GOLDEN = ROOT / "tests/text/golden/smollm2.json"

SAMPLING = SamplingSettings(max_tokens=12)
ENGINE = EngineSettings(rows=4, slots=8, chunk=4, row_multiple=512)
LIMITS = EpisodeSettings(turns=3, trunk_tokens=700)
ROOMY = EpisodeSettings(turns=10, trunk_tokens=10**6)
CLIP = Clip(observation=24, task=60)


@pytest.fixture(scope="module")
def environment() -> InterCodeSql:
    return InterCodeSql.load(
        str(DATA / "intercode_spider_dev_tasks.json.gz"),
        str(DATA / "intercode_spider_sqlite.tar.gz"),
    )


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return BpeTokenizer.from_gguf(
        golden["tokens"],
        golden["merges"],
        golden["token_types"],
        "smollm",
        golden["tokens"].index("<|im_end|>"),
        golden["chat_template"],
    )


@pytest.fixture(scope="module")
def chat(tokenizer: BpeTokenizer) -> ChatFormat:
    template = ChatTemplate.from_tokenizer(tokenizer)
    return ChatFormat(tokenizer, template, FencedSql(), CLIP, RenderSettings(tool_role="user"))


@pytest.fixture(scope="module")
def sessions(environment: InterCodeSql) -> list[tuple[Task, Trajectory]]:
    """Expert sessions of four to eight turns that succeed here, too."""
    tasks = {task.id: task for task in environment.questions}
    found = read(DATA / "intercode_sql_gpt4_success.jsonl.gz", limit=60)[0]
    known = [(tasks[each.task_id], each) for each in found if each.task_id in tasks]
    return [(task, each) for task, each in known if 10 <= len(each.messages) <= 18]


@pytest.fixture(scope="module")
def cfg(tiny_cfg: ModelConfig, tokenizer: BpeTokenizer) -> ModelConfig:
    return dataclasses.replace(tiny_cfg, vocab=tokenizer.vocab_size)


@pytest.fixture(scope="module")
def params(cfg: ModelConfig, tokenizer: BpeTokenizer) -> Params:
    """One whose end of turn is likely at some tokens."""
    params = init(jax.random.key(3), cfg)
    return dataclasses.replace(params, embed=params.embed.at[tokenizer.eot].multiply(4.0))


@pytest.fixture(scope="module")
def played_by(
    cfg: ModelConfig, params: Params, environment: InterCodeSql, chat: ChatFormat
) -> Callable[..., list[Played]]:
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])

    def played_by(
        tasks: Sequence[Task],
        samples: int = 3,
        engine: EngineSettings = ENGINE,
        sampling: SamplingSettings = SAMPLING,
        seed: int = 5,
    ) -> list[Played]:
        return play(
            params, cfg, environment, tasks, samples, jax.random.key(seed), chat, LIMITS,
            sampling, engine, mesh,
        )  # fmt: skip

    return played_by


@pytest.fixture(scope="module")
def tasks(environment: InterCodeSql) -> list[Task]:
    return list(environment.tasks("validation")[:5])


@pytest.fixture(scope="module")
def played(played_by: Callable[..., list[Played]], tasks: list[Task]) -> list[Played]:
    return played_by(tasks)


def test_every_task_is_played_by_every_sample(played: list[Played], tasks: list[Task]) -> None:
    assert [(p.task, p.sample) for p in played] == [(t, k) for t in tasks for k in range(3)]
    # Otherwise the tests below say little.
    assert {p.ending for p in played} == {"turns", "truncated"}
    assert {len(p.moves) for p in played} == {1, 2, 3}


def test_moves_are_the_sampled_tokens(played: list[Played], chat: ChatFormat) -> None:
    eot = chat.tokenizer.eot
    for p in played:
        assert p.tokens.dtype == np.int32
        assert p.moves[-1].end == len(p.tokens) <= LIMITS.trunk_tokens
        for number, move in enumerate(p.moves):
            own = p.tokens[move.start : move.end]
            cut = p.ending == "truncated" and number == len(p.moves) - 1
            assert (own == eot).sum() == (own[-1] == eot) == (not cut)
            assert len(own) == len(move.plain) == len(move.behaviour)
            assert len(own) == SAMPLING.max_tokens if cut else len(own) <= SAMPLING.max_tokens
            assert chat.tokenizer.decode(own[own != eot]) == move.text
            assert move.malformed
            assert not move.valid
        assert sum(message.role == "assistant" for message in p.messages) == len(p.moves)


def test_log_probs_are_those_that_training_recomputes(
    played: list[Played], cfg: ModelConfig, params: Params
) -> None:
    for p in played[::2]:
        tree = build_row([Tree(p.tokens)], Layout(LIMITS.trunk_tokens))
        index = np.concatenate([np.arange(move.start, move.end) for move in p.moves])
        padded = jnp.asarray(np.pad(index, (0, 36 - len(index))))[None]
        scores = jax.jit(token_logprobs, static_argnums=1)(params, cfg, tree, padded)
        drawn = np.concatenate([move.plain for move in p.moves])
        np.testing.assert_allclose(scores.logp_T[0, : len(drawn)], drawn, rtol=1e-5, atol=2e-5)
        behaviour = np.concatenate([move.behaviour for move in p.moves])
        np.testing.assert_allclose(drawn, behaviour, rtol=1e-5, atol=1e-5)


def test_episodes_do_not_depend_on_the_batch(
    played: list[Played], played_by: Callable[..., list[Played]], tasks: list[Task]
) -> None:
    alone = played_by(tasks[3:1:-1], engine=EngineSettings(2, 2, 8, 512))
    for ours, theirs in zip(alone, played[9:12] + played[6:9], strict=True):
        assert (ours.task, ours.sample, ours.ending) == (theirs.task, theirs.sample, theirs.ending)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        for a, b in zip(ours.moves, theirs.moves, strict=True):
            np.testing.assert_allclose(a.behaviour, b.behaviour, rtol=1e-4, atol=1e-4)


def test_turns_samples_and_keys_have_draws_of_their_own(
    played: list[Played], played_by: Callable[..., list[Played]], tasks: list[Task]
) -> None:
    texts = [move.text for p in played for move in p.moves if len(move.plain) > 2]
    assert len(set(texts)) == len(texts) > 15
    again = played_by(tasks[:1], seed=6)
    assert {move.text for p in again for move in p.moves}.isdisjoint(texts)


def test_openings_are_read_once_and_shapes_stay(
    played_by: Callable[..., list[Played]], tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def sample(*args: Any, **options: Any) -> Iterator[tuple[int, list[Sample]]]:
        rounds.append([len(own) for own in args[3]])
        return sampler(*args, **options)

    sampler = episodes.sample
    monkeypatch.setattr(episodes, "sample", sample)
    played = played_by(tasks[:2])
    assert rounds[0] == [3, 3, 0, 0]
    assert len(rounds) == max(len(p.moves) for p in played) > 1
    for number, asked in enumerate(rounds[1:], 2):
        going = sum(len(p.moves) >= number for p in played)
        assert asked == [1] * going + [0] * (-going % ENGINE.rows)


def test_top_1_is_greedy(played_by: Callable[..., list[Played]], tasks: list[Task]) -> None:
    greedy = dataclasses.replace(SAMPLING, top_k=1)
    runs = [played_by(tasks[:2], samples=2, sampling=greedy, seed=seed) for seed in (0, 1)]
    for p in [p for run in runs for p in run]:
        same = next(q for q in runs[0] if q.task == p.task)
        np.testing.assert_array_equal(p.tokens, same.tokens)
        assert all((move.behaviour == 0).all() for move in p.moves)


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
        keys = set[int]()

        def sample(
            params: object, cfg: object, trunks: list[np.ndarray], requests: list[list[Request]],
            key: jax.Array, *_: object, **__: object,
        ) -> Iterator[tuple[int, list[Sample]]]:  # fmt: skip
            ((request,), *idle) = requests
            assert (request.start, request.end) == (len(trunks[0]), len(trunks[0]))
            assert (len(requests), any(idle)) == (ENGINE.rows, False)
            keys.add(jax.random.bits(key).item())
            assert len(keys) == len(actions) - len(left) + 1  # another key every turn
            tokens = np.array(left.pop(0), np.int32)
            logp = np.zeros(len(tokens), np.float32)
            yield 0, [Sample(tokens, logp, logp, tokens[-1] != chat.tokenizer.eot)]

        monkeypatch.setattr(episodes, "sample", sample)
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
            shown, chat.tokenizer, chat.template, chat.fmt, CLIP, 10**6, settings
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
