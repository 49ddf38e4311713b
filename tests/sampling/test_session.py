"""Dialogues sampled turn by turn, against the sampler that reads a history anew for every turn."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pytest

from pivotrl_jax.models import logical_axes, shapes
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, Session, sample

ENDS = (3, 7)
PLAIN = SamplingSettings(max_tokens=10)
HOT = SamplingSettings(temperature=1.3, top_k=9, top_p=0.8, max_tokens=10)
ENGINE = EngineSettings(rows=8, slots=8, row_multiple=256)
KEY = jax.random.key(11)
ROOM = 250
# Tokens that the other side says before each turn: from one to several pieces at a time, and
# exactly whole pieces. So many dialogues that some have to wait for a row.
SAID = ((20, 1, 70), (5,), (32, 64, 5, 30), (100, 3), (1, 1, 1, 1, 1), (40, 31, 33), (9, 2))


@dataclasses.dataclass
class Dialogue:
    """Histories before every turn, and what was sampled then."""

    number: int
    said: list[np.ndarray]
    histories: list[np.ndarray] = dataclasses.field(default_factory=list)
    turns: list[Sample] = dataclasses.field(default_factory=list)

    def ask(self, session: Session, row: int) -> None:
        own = (self.histories[-1], self.turns[-1].tokens) if self.turns else ()
        kept = len(own[0]) if own else 0
        self.histories.append(np.concatenate([*own, self.said[len(self.turns)]]).astype(np.int32))
        ids = (len(self.turns), 2**31 + 7 * self.number, self.number % 3)
        session.ask(row, self.histories[-1], kept, *ids)


def dialogues(vocab: int) -> list[Dialogue]:
    rng = np.random.default_rng(3)
    return [
        Dialogue(number, [rng.integers(1, vocab, n) for n in lengths])
        for number, lengths in enumerate(SAID)
    ]


def hold(session: Session, waiting: list[Dialogue]) -> list[Dialogue]:
    """Holds dialogues to their end, one after the other in each row; rows are asked at once."""
    everyone, held = list(waiting), {}
    while waiting or held:
        for row in range(session.rows):
            if row not in held and waiting:
                held[row] = waiting.pop(0)
                held[row].ask(session, row)
        for row, turn in session.step():
            held[row].turns.append(turn)
            if len(held[row].turns) < len(held[row].said):
                held[row].ask(session, row)
            else:
                del held[row]
    return everyone


@pytest.fixture(scope="module")
def held(cfg, params) -> Callable[..., list[Dialogue]]:
    def held(rows=3, chunk=4, how=PLAIN, sizes=(1, 1, 1), order=1) -> list[Dialogue]:
        mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: np.prod(sizes)])
        placed = jax.device_put(params, shardings(shapes(cfg), logical_axes(cfg), mesh))
        with jax.set_mesh(mesh):
            session = Session(placed, cfg, rows, ROOM, KEY, ENDS, how, chunk, mesh)
            return hold(session, dialogues(cfg.vocab)[::order])[::order]

    return held


@pytest.fixture(scope="module")
def plain(held) -> list[Dialogue]:
    return held()


def assert_same(ours: Sequence[Sample], theirs: Sequence[Sample], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.behaviour, b.behaviour, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.plain, b.plain, rtol=tolerance, atol=tolerance)
        assert a.truncated == b.truncated


@pytest.mark.parametrize("how", [PLAIN, HOT], ids=["plain", "truncated"])
def test_every_turn_is_what_the_sampler_draws_after_its_history(cfg, params, held, how):
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    ended, truncated = held(how=how), set()
    for turn in range(max(map(len, SAID))):
        # Dialogues that are over are asked once more: other numbers of rows compile anew.
        trunks = [d.histories[min(turn, len(d.turns) - 1)] for d in ended]
        requests = [
            [Request(len(t), len(t), 2**31 + 7 * d.number, d.number % 3)]
            for t, d in zip(trunks, ended, strict=True)
        ]
        key = jax.random.fold_in(KEY, turn)
        found = dict(sample(params, cfg, trunks, requests, key, ENDS, how, ENGINE, mesh))
        own = [d for d in ended if len(d.turns) > turn]
        expected = [found[d.number][0] for d in own]
        assert_same([d.turns[turn] for d in own], expected, 1e-5)
        truncated |= {s.truncated for s in expected}
    assert truncated == {True, False}


@pytest.mark.parametrize(
    "schedule",
    [
        {"rows": 1},
        {"rows": 7, "chunk": 16},
        {"rows": 2, "chunk": 1},
        {"order": -1},
        {"rows": 8, "sizes": (1, 8, 1)},
        {"rows": 3, "sizes": (2, 2, 2)},
        {"rows": 3, "sizes": (1, 2, 1, 1, 2)},
    ],
    ids=str,
)
def test_turns_do_not_depend_on_rows_neighbours_and_devices(plain, held, schedule):
    for ours, theirs in zip(held(**schedule), plain, strict=True):
        assert ours.number == theirs.number
        assert_same(ours.turns, theirs.turns, 1e-4)


def test_a_history_must_fit_its_row(cfg, params):
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    session = Session(params, cfg, 2, 16, KEY, ENDS, PLAIN, 4, mesh)
    session.ask(0, np.ones(16, np.int32), 0, 0, 0, 0)
    with pytest.raises(ValueError, match="17 tokens exceed a row of 16"):
        session.ask(1, np.ones(17, np.int32), 0, 0, 0, 0)
