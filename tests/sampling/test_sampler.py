"""The engine against a sampler that recomputes everything for every token."""

import collections
import contextlib
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pivotrl_jax.models import ModelConfig, Params, logits
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, draw, sample
from pivotrl_jax.training import token_logprobs
from pivotrl_jax.trees import Tree, build_row

ENDS = (3, 7)
CAP = 10
PLAIN = SamplingSettings(max_tokens=CAP)
ENGINE = EngineSettings(rows=3, slots=12, chunk=4, row_multiple=16)
KEY = jax.random.key(11)


@partial(jax.jit, static_argnames=("cfg", "settings"))
def next_token(
    params: Params,
    cfg: ModelConfig,
    tokens_T: jax.Array,
    length: int,
    request: tuple[int, int],
    settings: SamplingSettings,
    step: int,
) -> tuple[jax.Array, ...]:
    key = KEY
    for part in (*request, step):
        key = jax.random.fold_in(key, part)
    z_V = logits(params, cfg, tokens_T[None])[0, length - 1]
    return draw(key[None], z_V[None], settings)


def naive(
    params: Params, cfg: ModelConfig, trunk: np.ndarray, request: Request, how: SamplingSettings
) -> Sample:
    """One sample, token by token, the whole sequence through the model for each."""
    sequence = np.zeros(32, np.int32)
    sequence[: request.start] = trunk[: request.start]
    drawn: list[tuple[int, float, float]] = []
    while len(drawn) < how.max_tokens and not (drawn and drawn[-1][0] in ENDS):
        ids = (np.uint32(request.candidate), request.sample)
        out = next_token(params, cfg, sequence, request.start + len(drawn), ids, how, len(drawn))
        token, behaviour, plain = (x[0].item() for x in out)
        sequence[request.start + len(drawn)] = token
        drawn.append((token, behaviour, plain))
    tokens, behaviours, plains = zip(*drawn, strict=True)
    return Sample(
        np.array(tokens), np.array(behaviours), np.array(plains), truncated=tokens[-1] not in ENDS
    )


@pytest.fixture(scope="module")
def serve(cfg, params, trunks):
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])

    def serve(
        requests, engine=ENGINE, how=PLAIN, trunks=trunks, cfg=cfg, params=params
    ) -> list[list[Sample]]:
        ended = dict(sample(params, cfg, trunks, requests, KEY, ENDS, how, engine, mesh))
        return [ended[i] for i in range(len(requests))]

    return serve


@pytest.fixture(scope="module")
def served(serve, requests) -> list[list[Sample]]:
    return serve(requests)


def assert_same(ours: list[list[Sample]], theirs: list[list[Sample]]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.behaviour, b.behaviour, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(a.plain, b.plain, rtol=1e-5, atol=1e-5)
            assert a.truncated == b.truncated


class Refused(Exception): ...


def test_every_call_of_the_devices_is_announced_and_may_be_refused(
    served, cfg, params, trunks, requests
):
    """As a profile names them, and as a run that has to stop does; `served` is compiled already."""
    mesh, names, open_ = make_mesh(MeshSettings(), jax.devices()[:1]), [], []

    @contextlib.contextmanager
    def device(name):
        if names and len(names) == most:
            raise Refused
        assert not open_
        names.append(name)
        open_.append(name)
        yield
        open_.pop()

    def ended():
        served = sample(
            params, cfg, trunks, requests, KEY, ENDS, PLAIN, ENGINE, mesh, device=device
        )
        return dict(served)

    most = -1
    found = ended()
    assert_same([found[i] for i in range(len(requests))], served)
    assert names[:2] == ["prefill", "draft"]
    assert {*names} == {"prefill", "draft", "decode"}
    every, most = list(names), len(names) // 2
    names.clear()
    with pytest.raises(Refused):
        ended()
    assert names == every[:most]


HOT = SamplingSettings(temperature=1.3, top_k=9, top_p=0.8, max_tokens=CAP)


@pytest.mark.parametrize("how", [PLAIN, HOT], ids=["plain", "truncated"])
def test_the_engine_equals_the_naive_sampler(serve, cfg, params, trunks, requests, how):
    assert_same(serve(requests, how=how), one_by_one(params, cfg, trunks, requests, how))


def one_by_one(
    params: Params, cfg: ModelConfig, trunks: list, requests: list, how: SamplingSettings
) -> list[list[Sample]]:
    return [
        [naive(params, cfg, trunk, request, how) for request in own]
        for trunk, own in zip(trunks, requests, strict=True)
    ]


def test_a_model_with_experts_is_sampled_like_any_other(
    serve, expert_cfg, expert_params, trunks, requests
):
    found = serve(requests, cfg=expert_cfg, params=expert_params)
    assert_same(found, one_by_one(expert_params, expert_cfg, trunks, requests, PLAIN))
    again = trained_on(expert_params, expert_cfg, trunks[0], requests[0], found[0])
    plain = np.concatenate([s.plain for s in found[0]])
    np.testing.assert_allclose(again, plain, rtol=1e-5, atol=1e-5)


def trained_on(
    params: Params,
    cfg: ModelConfig,
    trunk: np.ndarray,
    requests: list[Request],
    samples: list[Sample],
    temperature: float = 1.0,
) -> np.ndarray:
    """The log-probs of all samples' tokens by the forward pass of training."""
    branches = [(r.start, s.tokens) for r, s in zip(requests, samples, strict=True)]
    tree = build_row([Tree(trunk, branches)], 128)
    index = jnp.asarray(len(trunk) + np.arange(96)[None])
    score = jax.jit(token_logprobs, static_argnums=1, static_argnames="temperature")
    scores = score(params, cfg, tree, index, temperature=temperature)
    return np.asarray(scores.logp_T[0, : sum(len(s.tokens) for s in samples)])


@pytest.mark.parametrize("temperature", [0.6, 1.3])
def test_training_finds_the_log_probs_of_tempered_samples(
    serve, cfg, params, trunks, requests, temperature
):
    """The behaviour ones at the temperature of sampling, the plain ones at 1."""
    how = SamplingSettings(temperature=temperature, max_tokens=CAP)
    for trunk, own, found in zip(trunks, requests, serve(requests, how=how), strict=True):
        if own:
            again = partial(trained_on, params, cfg, trunk, own, found)
            behaviour, plain = (
                np.concatenate([getattr(s, name) for s in found]) for name in ("behaviour", "plain")
            )
            np.testing.assert_allclose(again(temperature), behaviour, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(again(), plain, rtol=1e-5, atol=1e-5)
            assert np.abs(behaviour - plain).max() > 0.05


@pytest.mark.parametrize(
    "engine",
    [
        # Fewer rows than trunks, and far fewer slots than requests.
        EngineSettings(rows=2, slots=2, chunk=3, row_multiple=16),
        EngineSettings(rows=5, slots=48, chunk=32, row_multiple=64),
    ],
    ids=["scarce", "ample"],
)
def test_samples_do_not_depend_on_the_engine(serve, served, requests, engine):
    assert_same(serve(requests, engine), served)


def test_short_trunks_are_read_as_short_ones(serve, served, requests, read):
    """21 tokens take two blocks of 16, 14 one; a trunk that nobody continues is not read far."""
    assert_same(serve(requests), served)
    assert read == [(1, 32), (1, 16), (1, 16)]


def test_samples_do_not_depend_on_their_neighbours(serve, served, trunks, requests):
    backwards = serve([own[::-1] for own in requests[::-1]], trunks=trunks[::-1])
    assert_same([own[::-1] for own in backwards[::-1]], served)
    alone = serve([requests[2][4:5]], trunks=trunks[2:])
    assert_same(alone, [served[2][4:5]])


def test_what_follows_a_turn_does_not_matter(serve, served, trunks, requests):
    other = [trunk.copy() for trunk in trunks]
    other[0][8:] = 5
    early = [r for r in requests[0] if r.start <= 8]
    late = [r for r in requests[0] if r.start > 8]
    again = serve([early + late], trunks=other[:1])[0]
    assert_same([again[: len(early)]], [served[0][3:]])
    assert any(
        a.tokens.tolist() != b.tokens.tolist()
        for a, b in zip(again[len(early) :], served[0][:3], strict=True)
    )


def test_a_sample_ends_at_the_end_of_turn_or_at_the_cap(served):
    samples = [s for own in served for s in own]
    for s in samples:
        assert not np.isin(s.tokens[:-1], ENDS).any()
        assert s.truncated == (s.tokens[-1] not in ENDS)
        assert len(s.tokens) == CAP if s.truncated else len(s.tokens) <= CAP
        assert len(s.tokens) == len(s.behaviour) == len(s.plain)
    # Otherwise one of the endings went untested.
    assert 0 < sum(s.truncated for s in samples) < len(samples)
    assert {int(s.tokens[-1]) for s in samples if not s.truncated} == set(ENDS)


def test_every_request_has_its_own_draws(serve, served, requests):
    different = {tuple(s.tokens) for own in served for s in own}
    assert len(different) > 0.8 * sum(map(len, requests))
    renamed = [[dataclasses.replace(r, candidate=r.candidate + 1) for r in own] for own in requests]
    assert {tuple(s.tokens) for own in serve(renamed) for s in own} != different


def test_plain_log_probs_are_those_that_training_recomputes(cfg, params, trunks, requests, served):
    for trunk, own, group in zip(trunks, requests, served, strict=True):
        if not own:
            continue
        branches = [(r.start, s.tokens) for r, s in zip(own, group, strict=True)]
        tree = build_row([Tree(trunk, branches)], 128)
        index = len(trunk) + np.arange(96)[None]
        scores = jax.jit(token_logprobs, static_argnums=1)(params, cfg, tree, jnp.asarray(index))
        drawn = np.concatenate([s.plain for s in group])
        np.testing.assert_allclose(scores.logp_T[0, : len(drawn)], drawn, rtol=1e-5, atol=1e-5)
        behaviour = np.concatenate([s.behaviour for s in group])
        np.testing.assert_allclose(drawn, behaviour, rtol=1e-5, atol=1e-5)


def test_nothing_to_do(serve, trunks):
    assert serve([[], [], []]) == [[], [], []]
    assert serve([], trunks=[]) == []


@pytest.mark.parametrize("how", [PLAIN, HOT], ids=["plain", "truncated"])
def test_drafts_change_the_cost_and_not_the_samples(serve, trunks, requests, how):
    """Experts that some samples follow to the end, some for a while and some not at all."""
    histories, wanted, plain = [], [], []
    for trunk, own, group in zip(trunks, requests, serve(requests, how=how), strict=True):
        for i in range(0, len(own), 3):
            expert = group[i].tokens
            histories.append(np.concatenate([trunk[: own[i].start], expert]).astype(np.int32))
            end = own[i].start + len(expert)
            wanted.append([dataclasses.replace(r, end=end) for r in own[i : i + 3]])
            plain.append(group[i : i + 3])
    drafted = serve(wanted, trunks=histories, how=how)
    assert_same(drafted, plain)
    for own in drafted:
        assert own[0].drafted == len(own[0].tokens)
        for s in own[1:]:
            same = s.tokens[: len(own[0].tokens)] == own[0].tokens[: len(s.tokens)]
            assert s.drafted == np.cumprod(same).sum()
    lengths = [s.drafted for own in drafted for s in own[1:]]
    assert 0 in lengths
    assert max(lengths) > 0


@pytest.mark.parametrize("how", [PLAIN, HOT], ids=["plain", "truncated"])
def test_drafted_samples_follow_the_enumerated_distribution(
    serve, cfg, params, trunks, reference, how
):
    """Sequences of two tokens, drawn along a likely expert action, by chi-square."""
    n, how = 6000, dataclasses.replace(how, max_tokens=2)
    history = trunks[0]
    probs = {}

    def next_probs(tokens: np.ndarray) -> np.ndarray:
        return reference(np.asarray(logits(params, cfg, jnp.asarray(tokens)[None])[0, -1]), how)

    first = next_probs(history)
    for token in np.flatnonzero(first):
        if token in ENDS:
            probs[(token,)] = first[token]
            continue
        second = next_probs(np.append(history, token))
        probs |= {(token, other): first[token] * second[other] for other in np.flatnonzero(second)}
    expert = np.array(max(probs, key=lambda tokens: probs[tokens] * len(tokens)))
    end = len(history) + len(expert)
    asked = [Request(len(history), end, 5, k) for k in range(n)]
    wide = EngineSettings(rows=1, slots=512, chunk=2, row_multiple=32)
    found = serve([asked], wide, how, [np.append(history, expert).astype(np.int32)])[0]
    counts = collections.Counter(tuple(s.tokens.tolist()) for s in found)
    assert counts.keys() <= probs.keys()
    assert {s.drafted for s in found} == {0, 1, 2}
    expected = np.array([n * p for p in probs.values()])
    often = expected > 5
    seen = np.array([counts[tokens] for tokens in probs])
    seen = np.append(seen[often], seen[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    kept = expected > 0
    assert stats.chisquare(seen[kept], expected[kept] * n / expected[kept].sum()).pvalue > 1e-3
