"""Routes recorded while sampling and replayed in updates, against a forward pass in NumPy."""

from functools import partial
from itertools import chain
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params, hidden_and_load, init
from pivotrl_jax.models.presets import QWEN_3_30B_A3B, shrink
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import put_rows
from pivotrl_jax.pivots import Row, Turn
from pivotrl_jax.sampling import EngineSettings, Sample, SamplingSettings
from pivotrl_jax.sampling.engine import load_trunks
from pivotrl_jax.sampling.slots import idle_slots
from pivotrl_jax.training import (
    PivotStep,
    PolicyBatch,
    TrainSettings,
    TrainState,
    micro_batches,
    policy_batch,
    policy_update,
    state_shardings,
)
from pivotrl_jax.training.ahead import _packed, _unpacked
from pivotrl_jax.trajectories import Action
from pivotrl_jax.trees import causal

CFG = shrink(QWEN_3_30B_A3B, vocab=16, width=32, layers=2, kv_heads=2, head_dim=8, ffn=16)
LAYERS, ACTIVE = CFG.layers, CFG.experts.active
ENDS, CAP, K, MULTIPLE = (3, 7, 9, 12), 8, 6, 32
HOW = SamplingSettings(max_tokens=CAP)
SETTINGS = TrainSettings(
    rows=2, pivots_per_row=2, samples=K, row_multiple=MULTIPLE, sampling=HOW, replay_routes=True
)
OPTIMIZER = optax.sgd(1.0)
NO_ROUTES = np.full((LAYERS, ACTIVE), -1)


def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CFG.norm_eps) * scale


def turned(x_THE: np.ndarray) -> np.ndarray:
    half = CFG.head_dim // 2
    freqs = CFG.rope_theta ** (-np.arange(half) / half)
    angles = np.arange(len(x_THE))[:, None, None] * freqs
    a, b = x_THE[..., :half], x_THE[..., half:]
    sin, cos = np.sin(angles), np.cos(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(p: dict, x: np.ndarray) -> np.ndarray:
    heads = len(x), CFG.heads, CFG.head_dim
    q = norm(np.einsum("td,dhge->thge", x, p["q"]), p["q_norm"]).reshape(heads)
    k = np.repeat(norm(np.einsum("td,dhe->the", x, p["k"]), p["k_norm"]), CFG.groups, axis=1)
    v = np.repeat(np.einsum("td,dhe->the", x, p["v"]), CFG.groups, axis=1)
    scores = np.einsum("the,she->hts", turned(q), turned(k)) / np.sqrt(CFG.head_dim)
    weights = np.where(np.tril(np.ones((len(x), len(x)))), np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,she,hed->td", weights, v, p["o"].reshape(*heads[1:], -1))


def experts(p: dict, x: np.ndarray, forced_TJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every expert for every token, and of them those that are forced or else the likeliest."""
    probs = np.exp(x @ p["router"])
    probs /= probs.sum(-1, keepdims=True)
    likely = np.argsort(-probs, axis=1)[:, :ACTIVE]
    kept = np.zeros_like(probs)
    np.put_along_axis(kept, np.where(forced_TJ < 0, likely, forced_TJ), 1, axis=1)
    kept *= probs
    kept /= kept.sum(-1, keepdims=True)
    gate = np.einsum("td,xdf->txf", x, p["expert_gate"])
    inner = gate / (1 + np.exp(-gate)) * np.einsum("td,xdf->txf", x, p["expert_up"])
    return np.einsum("tx,txf,xfd->td", kept, inner, p["expert_down"]), likely


def forward(
    params: Params, tokens: np.ndarray, forced_TNJ: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Final hidden states of one sequence in float64, and the router's likeliest [T, N, J]."""
    host = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    forced = np.full((len(tokens), LAYERS, ACTIVE), -1) if forced_TNJ is None else forced_TNJ
    x, found = host.embed[tokens], []
    for n in range(LAYERS):
        p = {
            name: leaf[n]
            for name, leaf in vars(host.layers).items()
            if isinstance(leaf, np.ndarray)
        }
        x = x + attention(p, norm(x, p["attn_norm"]))
        y, likely = experts(p, norm(x, p["ffn_norm"]), forced[:, n])
        x = x + y
        found.append(likely)
    return norm(x, host.final_norm), np.stack(found, axis=1)


@pytest.fixture(scope="module")
def params() -> Params:
    """Sure enough of itself that samples follow its greedy continuation for a while."""
    params = init(jax.random.key(3), CFG)
    return params.replace(head=3 * params.head)


@pytest.fixture(scope="module")
def moved(params) -> Params:
    """With another router."""
    router = params.layers.router
    noise = 0.1 * jax.random.normal(jax.random.key(5), router.shape)
    return params.replace(layers=params.layers.replace(router=router + noise))


@pytest.fixture(scope="module")
def trunks(params) -> list[np.ndarray]:
    """A few random tokens, then four greedy ones, twice over."""
    rng = np.random.default_rng(0)

    def greedy(tokens: np.ndarray) -> np.ndarray:
        for _ in range(4):
            scores = np.asarray(params.head) @ forward(params, tokens)[0][-1]
            scores[list(ENDS)] = -np.inf
            tokens = np.append(tokens, scores.argmax())
        return tokens

    def trunk(*sizes: int) -> np.ndarray:
        tokens = np.zeros(0, int)
        for size in sizes:
            tokens = greedy(np.append(tokens, rng.integers(8, CFG.vocab, size)))
        return tokens.astype(np.int32)

    return [trunk(6, 5), trunk(9)]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    spans = [((6, 10), (15, 19)), ((9, 13),)]
    return [
        (i, [Turn(f"{i}.{a}", str(i), "swe", a, i, a, b, Action()) for a, b in own])
        for i, own in enumerate(spans)
    ]


@pytest.fixture(scope="module")
def mesh(place):
    return place(1, 1, 1)[0]


@pytest.fixture(scope="module")
def drawn(params, rows, trunks, mesh):
    """What a step draws at both rows."""
    step = PivotStep(
        cfg=CFG, rows_of=lambda indices: [rows[i] for i in indices], trunks=trunks,
        reference=None, update=None, judging=SimpleNamespace(tokenizer=SimpleNamespace(ends=ENDS)),
        settings=SETTINGS, engine=EngineSettings(rows=2, slots=6, chunk=3, row_multiple=MULTIPLE),
        learning_rates=(), key=jax.random.key(11), mesh=mesh,
        thread=SimpleNamespace(submit=lambda *_: None),
    )  # fmt: skip
    return step.draw(params, np.array([0, 1]), 0).rollout


@pytest.fixture(scope="module")
def sequences(drawn, trunks) -> list[tuple[int, int, Sample, np.ndarray]]:
    """Trunk, start and tokens of every sample with what comes before it."""
    return [
        (turn.trunk, turn.start, s, np.append(trunks[turn.trunk][: turn.start], s.tokens))
        for turn, group in zip(drawn.turns, drawn.samples, strict=True)
        for s in group
    ]


@pytest.fixture(scope="module")
def batch(rows, trunks, drawn) -> PolicyBatch:
    reward_PK = np.random.default_rng(1).normal(size=(3, K)).astype(np.float32)
    valid_PK = np.ones((3, K), bool)
    return policy_batch(
        rows, trunks, drawn, reward_PK, valid_PK, ~valid_PK,
        pivots=2, multiple=MULTIPLE, shards=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def forced(sequences, trunks):
    """What is recorded of a sequence: of its own tokens, and of those of its trunk that some sample
    shares with its expert."""
    known = [np.tile(NO_ROUTES, (len(trunk), 1, 1)) for trunk in trunks]
    for trunk, start, s, _ in sequences:
        known[trunk][start : start + s.drafted] = s.routes[: s.drafted]

    def forced(trunk: int, start: int, s: Sample) -> np.ndarray:
        return np.concatenate([known[trunk][:start], s.routes])

    return forced


read = jax.jit(hidden_and_load, static_argnums=(1, 3))


@pytest.fixture(scope="module")
def update(mesh):
    """A jitted update, and what it is given."""
    layout = state_shardings(OPTIMIZER, CFG, mesh)
    update = policy_update(
        CFG, OPTIMIZER, layout, PolicySettings(kl_coef=0.0), SETTINGS.advantage,
        temperature=1.0, remat="full",
    )  # fmt: skip

    def given(params: Params, batch: PolicyBatch) -> tuple[TrainState, None, PolicyBatch]:
        """A third row is padding."""
        params = jax.tree.map(jnp.copy, params)
        return (
            TrainState(jnp.int32(0), params, OPTIMIZER.init(params)),
            None,
            micro_batches(batch, 3),
        )

    return update, given


@pytest.fixture(scope="module")
def updated(update, batch):
    """Parameters and metrics after an update."""
    jitted, given = update
    compiled = []

    def updated(params: Params) -> tuple[Params, dict]:
        arguments = given(params, batch)
        if not compiled:
            compiled.append(jitted.lower(*arguments).compile())
        after, metrics = compiled[0](*arguments)
        return jax.device_get((after.params, metrics))

    return updated


def test_a_sample_records_the_experts_of_its_tokens(params, sequences):
    for _, start, s, tokens in sequences:
        assert s.routes.dtype == np.int8
        assert s.routes.shape == (len(s.tokens), LAYERS, ACTIVE)
        read = len(s.tokens) if s.drafted == len(s.tokens) else len(s.tokens) - 1
        likely = forward(params, tokens)[1][start:]
        np.testing.assert_array_equal(np.sort(s.routes[:read]), np.sort(likely[:read]))
        assert (s.routes[read:] == -1).all()
    # Otherwise one of the ways was not taken.
    drafted = np.array([s.drafted for _, _, s, _ in sequences])
    lengths = np.array([len(s.tokens) for _, _, s, _ in sequences])
    assert 0 in drafted
    assert len({*drafted}) > 2
    assert (lengths - drafted > 2).any()


def test_the_same_policy_changes_no_routes(params, batch, updated):
    _, metrics = updated(params)
    assert metrics["experts/changed_routes"] == 0
    assert (batch.routes != -1).any()


def test_a_moved_router_is_overruled(moved, batch, sequences, forced):
    """Hidden states of all samples' tokens are those of the formula with these experts."""
    h_RTD, load_NX, _ = read(moved, CFG, batch.tree, "full", batch.routes)
    at, apart = [0, 0], 0.0
    for trunk, start, s, tokens in sequences:
        own = slice(at[trunk], at[trunk] + len(s.tokens))
        places = batch.index[trunk, own]
        at[trunk] = own.stop
        expected, _ = forward(moved, tokens, forced(trunk, start, s))
        np.testing.assert_allclose(h_RTD[trunk, places], expected[start:], rtol=1e-3, atol=1e-4)
        apart = max(apart, np.abs(expected - forward(moved, tokens)[0]).max())
    assert apart > 0.1
    np.testing.assert_array_equal(load_NX.sum(axis=1), (batch.tree.segments >= 0).sum() * ACTIVE)


def test_the_share_of_changes_is_counted_by_hand(moved, updated, sequences, forced):
    """With a row of padding beside the two."""
    changed, pairs = 0, 0
    for trunk, start, s, tokens in sequences:
        _, likely = forward(moved, tokens, forced(trunk, start, s))
        for own, other in zip(s.routes, likely[start:], strict=True):
            for n in range(LAYERS):
                pairs += own[n][0] != -1
                changed += own[n][0] != -1 and {*own[n].tolist()} != {*other[n].tolist()}
    _, metrics = updated(moved)
    assert 0 < changed < pairs
    assert metrics["experts/changed_routes"] == pytest.approx(changed / pairs)


def test_gradients_of_the_router_are_slopes(moved, params, trunks):
    """Of one sequence whose experts are all given, so that the formula has no steps."""
    tokens = trunks[0]
    _, routes_TNJ = forward(params, tokens)
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(len(tokens), CFG.width))
    step = rng.normal(size=moved.layers.router.shape)
    tree = causal(tokens[None])

    @jax.jit
    @jax.grad
    def gradient(router: jax.Array) -> jax.Array:
        own = moved.replace(layers=moved.layers.replace(router=router))
        return jnp.sum(hidden_and_load(own, CFG, tree, "full", routes_TNJ[None])[0][0] * weight)

    def along(size: float) -> float:
        router = np.asarray(moved.layers.router, np.float64) + size * step
        own = moved.replace(layers=moved.layers.replace(router=router))
        return np.sum(forward(own, tokens, routes_TNJ)[0] * weight)

    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    assert np.sum(gradient(moved.layers.router) * step) == pytest.approx(slope, rel=1e-3)


def test_updates_move_the_router(moved, updated):
    after, _ = updated(moved)
    change = np.abs(after.layers.router - moved.layers.router)
    assert (change.max(axis=(1, 2)) > 1e-3).all()


def test_replay_does_not_depend_on_the_mesh(place, moved, batch):
    alone = read(moved, CFG, batch.tree, "full", batch.routes)
    mesh, params = place(1, 1, 1, 2, cfg=CFG, params=moved)
    with jax.set_mesh(mesh):
        found = read(
            params, CFG, *put_rows((batch.tree,), mesh), "full", put_rows(batch.routes, mesh)
        )
    for ours, theirs in zip(found, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_replay_nothing_is_recorded(params, batch, update):
    jitted, given = update

    def programs(routes: bool) -> str:
        slots = jax.eval_shape(partial(idle_slots, CFG, HOW, (2, 3), MULTIPLE, routes=routes))
        tokens, rows = jnp.zeros((2, MULTIPLE), jnp.int32), jnp.arange(2)
        own = batch if routes else batch.replace(routes=None)
        sampling = load_trunks.trace(params, CFG, slots, tokens, rows)
        return str(sampling.jaxpr) + str(jitted.trace(*given(params, own)).jaxpr)

    assert "i8[" in programs(True)
    assert "i8[" not in programs(False)


def test_rows_of_padding_have_no_routes(batch):
    routes_MRTNJ = micro_batches(batch, 3).routes
    np.testing.assert_array_equal(routes_MRTNJ[0, :2], batch.routes)
    assert (routes_MRTNJ[0, 2] == -1).all()


def test_routes_outlast_a_checkpoint(drawn):
    again = _unpacked(_packed(drawn.samples))
    for one, other in zip(chain(*drawn.samples), chain(*again), strict=True):
        np.testing.assert_array_equal(one.routes, other.routes)
        assert one.routes.dtype == other.routes.dtype


def test_a_model_without_experts_is_refused(tiny_cfg):
    others = dict.fromkeys(
        ("rows_of", "trunks", "reference", "update", "judging", "engine", "learning_rates", "key",
         "mesh", "thread")
    )  # fmt: skip
    with pytest.raises(UserError, match=r"train.replay_routes needs a model with experts"):
        PivotStep(cfg=tiny_cfg, settings=SETTINGS, **others)
