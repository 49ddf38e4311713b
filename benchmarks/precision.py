"""Products at bfloat16 against float32: a gradient, a prefill and decoding, and how far they part.

    python -m benchmarks.precision [--quick] [--layers N] [--json FILE]

Parameters, activations and sums are float32 on both sides; `config.model.matmul_precision` rounds
the operands. `logp_gap` is the largest and `logp_mean_gap` the mean difference between the sides'
log-probs of a text, in nats, and `gradient_gap` the length of the gradients' difference over that
of float32's. Weights and text are real: SmolLM2-135M-Instruct reads this file's neighbour,
README.md.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from benchmarks.command import one_device, parser, run
from benchmarks.decode import Shape, decoding
from benchmarks.table import Row, report
from benchmarks.timing import medians
from pivotrl_jax.models import ModelConfig, Params, Remat, logical_axes, shapes
from pivotrl_jax.models.cache import prefill
from pivotrl_jax.models.config import Precision
from pivotrl_jax.models.pretrained import Pretrained, resolve
from pivotrl_jax.parallel import shardings
from pivotrl_jax.sampling.engine import decoding_layers
from pivotrl_jax.training import token_logprobs
from pivotrl_jax.trees import causal

MODEL = "SmolLM2-135M-Instruct"
TEXT = Path(__file__).with_name("README.md")
SLOTS, STEPS = 32, 32
TOKENS, QUICK_TOKENS, QUICK_LAYERS = 1536, 512, 4
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
GRADIENTS: dict[str, Remat] = {"gradient": "dots", "gradient, remat full": "full"}
WORKS = (*GRADIENTS, "prefill", "decoding")
COLUMNS = (
    "work", "layers", "tokens", "seconds_float32", "seconds_bfloat16", "speedup", "logp_gap",
    "logp_mean_gap", "gradient_gap",
)  # fmt: skip

Found = tuple[jax.Array, Params]  # log-probs of the text, and gradients of their mean


def learning(
    cfg: ModelConfig, params: Params, tokens_T: Int[Array, "T"], remat: Remat
) -> Callable[[Any], Found]:
    """A side: log-probs of all tokens but the first, and the gradients of their mean."""
    tree, index_RA = causal(tokens_T[None]), jnp.arange(1, len(tokens_T))[None]

    def mean(params: Params) -> tuple[jax.Array, jax.Array]:
        logp_RA = token_logprobs(params, cfg, tree, index_RA, remat=remat).logp_T
        return logp_RA.mean(), logp_RA

    @jax.jit
    def learn(params: Params) -> Found:
        (_, logp_RA), grads = jax.value_and_grad(mean, has_aux=True)(params)
        return logp_RA, grads

    return lambda _: learn(params)


def sides(
    cfg: ModelConfig, params: Params, tokens_T: Int[Array, "T"]
) -> dict[str, Callable[[Any], Any]]:
    """Of one precision, each from what it returned last."""
    learn = {name: learning(cfg, params, tokens_T, remat) for name, remat in GRADIENTS.items()}
    read = jax.jit(prefill, static_argnums=1)
    decode = decoding(
        params, decoding_layers(params, cfg), cfg, Shape(1, SLOTS, len(tokens_T), STEPS)
    )
    return {
        **learn,
        "prefill": lambda _: read(params, cfg, tokens_T[None]),
        "decoding": lambda slots: decode(slots or {}),
    }


def gaps(exact: Found, rounded: Found) -> Row:
    logp = np.abs(np.asarray(exact[0]) - np.asarray(rounded[0]))
    apart = jax.tree.map(jnp.subtract, exact[1], rounded[1])
    return {
        "logp_gap": float(logp.max()),
        "logp_mean_gap": float(logp.mean()),
        "gradient_gap": float(optax.global_norm(apart) / optax.global_norm(exact[1])),
    }


def rows(cfg: ModelConfig, params: Params, tokens_T: Int[Array, "T"], rounds: int) -> Iterator[Row]:
    def carried(key: str, side: Callable[[Any], Any], carry: Mapping[str, Any]) -> dict[str, Any]:
        return {**carry, key: side(carry.get(key))}

    every = {}
    for precision in PRECISIONS:
        own = dataclasses.replace(cfg, matmul_precision=precision)
        for work, side in sides(own, params, tokens_T).items():
            every[f"{work} {precision}"] = partial(carried, f"{work} {precision}", side)
    seconds, found = medians(every, {}, rounds)
    for work in WORKS:
        exact, rounded = (f"{work} {precision}" for precision in PRECISIONS)
        yield {
            "work": work,
            "layers": cfg.layers,
            "tokens": SLOTS * STEPS if work == "decoding" else len(tokens_T),
            "seconds_float32": seconds[exact],
            "seconds_bfloat16": seconds[rounded],
            "speedup": seconds[exact] / seconds[rounded],
            **(gaps(found[exact], found[rounded]) if work in GRADIENTS else {}),
        }


def cut(pretrained: Pretrained, layers: int) -> tuple[ModelConfig, Params]:
    """The first layers of a model."""
    cfg = pretrained.cfg
    params = pretrained.load(shardings(shapes(cfg), logical_axes(cfg), one_device()))
    kept = jax.tree.map(lambda x: x[:layers], params.layers)
    return dataclasses.replace(cfg, layers=layers), dataclasses.replace(params, layers=kept)


def main() -> None:
    options = parser("precision", __doc__)
    options.add_argument("--layers", type=int, help="keep only so many of the 30 layers")
    given = options.parse_args()
    pretrained = resolve(MODEL)
    layers = given.layers or (QUICK_LAYERS if given.quick else pretrained.cfg.layers)
    cfg, params = cut(pretrained, layers)
    text = pretrained.tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    tokens_T = jnp.asarray(text[: QUICK_TOKENS if given.quick else TOKENS], jnp.int32)
    title = f"Products at bfloat16 against float32, {MODEL} with {layers} layers"
    report(
        "precision", {title: COLUMNS}, rows(cfg, params, tokens_T, given.rounds or 3), given.json
    )


if __name__ == "__main__":
    run(main)
