"""Tokens per second of the decode engine against the number of slots, and its share of bandwidth.

    python -m benchmarks.decode [--quick] [--layers N] [--json FILE]

Every step must read the parameters, every trunk's keys and values once for all its slots, and every
slot's own. `bandwidth_share` is those bytes per second over the bytes per second of a large copy in
the same run; where many slots make the step compute-bound, it falls. Weights are random, in the
shapes of SmolLM2-135M.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits
from benchmarks.command import parser, run
from benchmarks.table import Row, report
from benchmarks.timing import medians
from pivotrl_jax.models import ModelConfig, Params, init
from pivotrl_jax.models.presets import SMOLLM2_135M
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.sampling.engine import advance, decoding_layers, load_trunks
from pivotrl_jax.sampling.slots import Drawn, Refill, Slots, idle_slots

TRUNK, STEPS = 1024, 32
# Trunks in memory, and slots of each.
GRID = ((1, 1), (1, 4), (1, 16), (1, 64), (4, 16), (8, 16), (16, 1))
QUICK = ((1, 1), (1, 8), (1, 32), (8, 4))
QUICK_LAYERS = 6
NEVER = ()

COLUMNS = (
    "trunks", "slots", "trunk_tokens", "step_ms", "tokens_per_second", "against_one",
    "megabytes_per_step", "gigabytes_per_second", "copy_gigabytes_per_second", "bandwidth_share",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shape:
    """`trunks` of `length` tokens with `slots` decoding slots each, which draw `steps` tokens."""

    trunks: int
    slots: int
    length: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.trunks} x {self.slots}"

    @property
    def all_slots(self) -> int:
        return self.trunks * self.slots


def bytes_per_step(cfg: ModelConfig, params: Params, shape: Shape) -> float:
    """What a step cannot do without reading; of own tokens, the mean over all steps.

    A tied embedding is read once, as the head; the few rows looked up in it do not count.
    """
    read = params if params.head is None else dataclasses.replace(params, embed=None)
    weights = sum(x.nbytes for x in jax.tree.leaves(read))
    per_token = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * jnp.dtype(cfg.dtype).itemsize
    own = shape.all_slots * (shape.steps + 1) / 2
    return weights + per_token * (shape.trunks * shape.length + own)


def loaded(params: Params, cfg: ModelConfig, shape: Shape, settings: SamplingSettings) -> Slots:
    """Slots whose trunks are prefilled."""
    slots = idle_slots(cfg, settings, (shape.trunks, shape.slots), shape.length)
    rng = np.random.default_rng(0)
    for row in range(shape.trunks):
        tokens_QL = jnp.asarray(rng.integers(cfg.vocab, size=(1, shape.length)), jnp.int32)
        slots, *_ = load_trunks(params, cfg, slots, tokens_QL, jnp.array([row]))
    return slots


def restart(shape: Shape, settings: SamplingSettings) -> Refill:
    """All slots anew at the end of their trunk."""
    places = (shape.trunks, shape.slots)
    zeros = jnp.zeros((*places, settings.max_tokens), jnp.float32)
    return Refill(
        fresh_RB=jnp.ones(places, bool),
        start_RB=jnp.full(places, shape.length, jnp.int32),
        drafted_RB=jnp.zeros(places, jnp.int32),
        drawn=Drawn(zeros.astype(jnp.int32), zeros, zeros),
        keys_RB=jax.random.split(jax.random.key(1), places),
    )


def decoding(params: Params, layers: Any, cfg: ModelConfig, shape: Shape) -> Callable[[dict], dict]:
    """A side that draws `shape.steps` tokens in every slot; its slots are carried along."""
    settings = SamplingSettings(max_tokens=shape.steps)
    refill = restart(shape, settings)

    def side(carry: dict[str, Slots]) -> dict[str, Slots]:
        slots = carry[shape.name] if shape.name in carry else loaded(params, cfg, shape, settings)
        slots = advance(params, layers, cfg, slots, refill, settings, NEVER, shape.steps)
        return carry | {shape.name: slots}

    return side


def row(
    cfg: ModelConfig, params: Params, shape: Shape, seconds: float, one: float, bandwidth: float
) -> Row:
    """`one` is the tokens per second of the first shape, `bandwidth` the copy's bytes a second."""
    step = seconds / shape.steps
    needed = bytes_per_step(cfg, params, shape)
    return {
        "model": cfg.name,
        "layers": cfg.layers,
        "dtype": cfg.dtype,
        "trunks": shape.trunks,
        "slots": shape.all_slots,
        "trunk_tokens": shape.length,
        "step_ms": 1e3 * step,
        "tokens_per_second": shape.all_slots / step,
        "against_one": shape.all_slots / step / one,
        "megabytes_per_step": needed / 1e6,
        "gigabytes_per_second": needed / step / 1e9,
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "bandwidth_share": needed / step / bandwidth,
    }


def rows(cfg: ModelConfig, shapes: Sequence[Shape], rounds: int) -> Iterator[Row]:
    """All shapes and the copy in turn; the first shape is what the others are compared with."""
    params = jax.jit(init, static_argnums=1)(jax.random.key(0), cfg)
    layers = decoding_layers(params, cfg)
    copying, copied = limits.copy()
    sides = {shape.name: decoding(params, layers, cfg, shape) for shape in shapes} | {
        "copy": copying
    }
    seconds, _ = medians(sides, {}, rounds)
    first = shapes[0]
    one = first.all_slots * first.steps / seconds[first.name]
    for shape in shapes:
        yield row(cfg, params, shape, seconds[shape.name], one, copied / seconds["copy"])


def main() -> None:
    options = parser("decode", __doc__)
    options.add_argument("--layers", type=int, help="keep only so many of the 30 layers")
    given = options.parse_args()
    layers = given.layers or (QUICK_LAYERS if given.quick else SMOLLM2_135M.layers)
    cfg = dataclasses.replace(SMOLLM2_135M, layers=layers)
    shapes = [Shape(*places, TRUNK, STEPS) for places in (QUICK if given.quick else GRID)]
    print(f"{cfg.name} shapes, {layers} of {SMOLLM2_135M.layers} layers", file=sys.stderr)
    title = f"Decoding, {cfg.name} shapes with {layers} layers, {cfg.dtype}"
    report("decode", {title: COLUMNS}, rows(cfg, shapes, given.rounds or 3), given.json)


if __name__ == "__main__":
    run(main)
