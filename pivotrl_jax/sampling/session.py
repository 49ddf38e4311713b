"""Dialogues that are sampled turn by turn: what has been read once stays in memory."""

import dataclasses
from collections import deque
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import fetch, put_rows, row_shards
from pivotrl_jax.sampling.engine import advance, decoding_layers, extend_trunks
from pivotrl_jax.sampling.sampler import drawn_in
from pivotrl_jax.sampling.slots import Drawn, Refill, idle_slots
from pivotrl_jax.sampling.tokens import SamplingSettings, sample_keys
from pivotrl_jax.sampling.types import DeviceCalls, Sample
from pivotrl_jax.trees import round_up

# Tokens of a piece of text, the most that a row reads at a time. Shorter ones are padded.
PIECE = 32
# Of the rows of a device, one in so many is read at a time: seldom more are waiting.
SHARE = 4


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    """Tokens that a row is to read at the place `start`; the row is counted on its own device."""

    row: int
    start: int
    tokens: Int[np.ndarray, "N"]


class Session:
    """`rows` rows (or some more, so that every device has as many) of `length` tokens.

    A row holds one dialogue with its keys and values, so that a turn costs its new tokens alone.
    After `ask` for a turn, `step` until it has come; meanwhile, other rows may be asked.
    """

    def __init__(
        self,
        params: Params,
        cfg: ModelConfig,
        rows: int,
        length: int,
        key: PRNGKeyArray,
        ends: tuple[int, ...],
        sampling: SamplingSettings,
        chunk: int,
        mesh: Mesh,
        device: DeviceCalls = jax.profiler.TraceAnnotation,
    ) -> None:
        shards = row_shards(mesh)
        self.rows = round_up(rows, shards)
        self._params, self._cfg, self._layers = params, cfg, decoding_layers(params, cfg)
        self._slots = idle_slots(cfg, sampling, (self.rows, 1), length)
        self._length, self._chunk, self._mesh, self._device = length, chunk, mesh, device
        self._key, self._ends, self._sampling = key, ends, sampling
        zeros = np.zeros((self.rows, 1, sampling.max_tokens), np.float32)
        tokens, drafted = zeros.astype(np.int32), np.zeros((self.rows, 1), np.int32)
        drawn, self._drafted = put_rows(((tokens, zeros, zeros), drafted), mesh)
        self._nothing = Drawn(*drawn)
        self._unread: list[deque[_Piece]] = [deque() for _ in range(shards)]
        self._asked: dict[int, tuple[int, Sequence[int]]] = {}  # row to start and numbers
        self._sampled: set[int] = set()

    def ask(
        self,
        row: int,
        history: Int[np.ndarray, "T"],
        kept: int,
        turn: int,
        candidate: int,
        sample: int,
    ) -> None:
        """Asks for a turn after `history`, whose first `kept` tokens the row holds already.

        It is drawn as `sampling.sample` does from the key `fold_in(key, turn)`. Raises ValueError
        for a history that the row has no room for.
        """
        if len(history) > self._length:
            raise ValueError(f"{len(history)} tokens exceed a row of {self._length}")
        shard, place = divmod(row, self.rows // len(self._unread))
        for start in range(kept, len(history), PIECE):
            piece = _Piece(place, start, history[start : start + PIECE])
            self._unread[shard].append(piece)
        self._asked[row] = len(history), (turn, candidate, sample)

    def step(self) -> list[tuple[int, Sample]]:
        """Reads all that was asked for and decodes a chunk; turns that ended, and their rows."""
        self._read()
        refill = self._refill()
        with self._device("decode"):
            self._slots = slots = advance(
                self._params,
                self._layers,
                self._cfg,
                self._slots,
                refill,
                self._sampling,
                self._ends,
                self._chunk,
            )
            running, length, drawn = fetch((slots.running_RB, slots.length_RB, slots.drawn))
        self._sampled |= self._asked.keys()
        self._asked = {}
        ended = [row for row in sorted(self._sampled) if not running[row, 0]]
        self._sampled -= {*ended}
        return [(row, drawn_in(drawn, (row, 0), length[row, 0], self._ends)) for row in ended]

    def _read(self) -> None:
        most = max(1, self.rows // len(self._unread) // SHARE)
        while any(self._unread):
            now = [[own.popleft() for _ in range(min(most, len(own)))] for own in self._unread]
            pieces = put_rows(_arrays(now, most, self._length), self._mesh)
            with self._device("prefill"):
                self._slots = extend_trunks(
                    self._params, self._layers, self._cfg, self._slots, *pieces
                )

    def _refill(self) -> Refill:
        shape = (self.rows, 1)
        fresh, start = np.zeros(shape, bool), np.zeros(shape, np.int32)
        numbers = np.zeros((3, *shape), np.uint32)
        for row, (length, own) in self._asked.items():
            fresh[row], start[row], numbers[:, row, 0] = True, length, own
        fresh_RB, start_RB, *on_devices = put_rows((fresh, start, *numbers), self._mesh)
        keys = sample_keys(self._key, *on_devices)
        return Refill(fresh_RB, start_RB, self._drafted, self._nothing, keys)


def _arrays(
    pieces: Sequence[Sequence[_Piece]], most: int, beyond: int
) -> tuple[Int[np.ndarray, "Q N"], Int[np.ndarray, "Q"], Int[np.ndarray, "Q N"]]:
    """Tokens, rows and places of at most `most` pieces per device; padding is placed `beyond`."""
    shape = (len(pieces), most, PIECE)
    tokens, rows = np.zeros(shape, np.int32), np.zeros(shape[:2], np.int32)
    places = np.full(shape, beyond, np.int32)
    for shard, own in enumerate(pieces):
        for number, piece in enumerate(own):
            n = len(piece.tokens)
            rows[shard, number] = piece.row
            tokens[shard, number, :n] = piece.tokens
            places[shard, number, :n] = piece.start + np.arange(n)
    return tokens.reshape(-1, PIECE), rows.reshape(-1), places.reshape(-1, PIECE)
