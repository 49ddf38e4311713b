"""Episodes of a tiny policy on real questions."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence

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
    play,
)
from pivotrl_jax.models import ModelConfig, Params, init
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import EngineSettings, Request, SamplingSettings, sample
from pivotrl_jax.text import BpeTokenizer
from pivotrl_jax.training import token_logprobs
from pivotrl_jax.trees import Tree, build_row

SAMPLING = SamplingSettings(max_tokens=12)
ENGINE = EngineSettings(rows=4, chunk=4)
ORACLE = EngineSettings(rows=15, slots=15, row_multiple=700)
LIMITS = EpisodeSettings(turns=3, trunk_tokens=700)


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
        tree = build_row([Tree(p.tokens)], LIMITS.trunk_tokens)
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
    alone = played_by(tasks[3:1:-1], engine=EngineSettings(rows=2, chunk=8))
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


def test_actions_are_what_the_sampler_draws_after_their_histories(
    played: list[Played], cfg: ModelConfig, params: Params, chat: ChatFormat
) -> None:
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    for turn in range(LIMITS.turns):
        own = [p for p in played if len(p.moves) > turn]
        trunks = [p.tokens[: p.moves[turn].start] for p in own]
        requests = [
            [Request(len(trunk), len(trunk), zlib.crc32(p.task.id.encode()), p.sample)]
            for trunk, p in zip(trunks, own, strict=True)
        ]
        key = jax.random.fold_in(jax.random.key(5), turn)
        ends = chat.tokenizer.ends
        drawn = sample(params, cfg, trunks, requests, key, ends, SAMPLING, ORACLE, mesh)
        for number, (expected,) in drawn:
            p, move = own[number], own[number].moves[turn]
            np.testing.assert_array_equal(p.tokens[move.start : move.end], expected.tokens)
            np.testing.assert_allclose(move.plain, expected.plain, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(move.behaviour, expected.behaviour, rtol=1e-5, atol=1e-5)


def test_top_1_is_greedy(played_by: Callable[..., list[Played]], tasks: list[Task]) -> None:
    greedy = dataclasses.replace(SAMPLING, top_k=1)
    runs = [played_by(tasks[:2], samples=2, sampling=greedy, seed=seed) for seed in (0, 1)]
    for p in [p for run in runs for p in run]:
        same = next(q for q in runs[0] if q.task == p.task)
        np.testing.assert_array_equal(p.tokens, same.tokens)
        assert all((move.behaviour == 0).all() for move in p.moves)
