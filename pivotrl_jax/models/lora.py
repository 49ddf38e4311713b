"""Low-rank adapters (LoRA, arXiv 2106.09685): W + scale * A B with W frozen, never merged to run.

Adapters are a tree of their own, in float32 whatever the dtype of the base. `attach` makes a
`Params` of both, which sampling, scoring and training take like any other: every matrix product
with weights of a layer, but for experts', goes through `project`.
"""

import dataclasses
import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import ModelConfig, Precision
from pivotrl_jax.models.params import LayerParams, Leaf, Params, logical_axes, shapes
from pivotrl_jax.models.product import product

# The projections of a layer, and how many of their leading axes are contracted.
TARGETS = {"q": 1, "k": 1, "v": 1, "o": 3, "gate": 1, "up": 1, "down": 1}
PROJECTED = "projected"  # what a checkpoint policy calls the outputs of adapted projections


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Adapters of `rank` on the projections `targets`, in place of training all weights; rank 0:
    none.

    Their product counts `alpha` / rank, or with `rslora` `alpha` / sqrt(rank) (arXiv 2312.03732).
    Adapters learn at `rate` times the learning rates of a run's stages, which are meant for all
    weights. `start` is a PEFT directory with adapters of these settings to begin with (None: new
    ones).
    """

    rank: int = 0
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(TARGETS)
    rslora: bool = False
    rate: float = 10.0
    start: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UserError(f"lora.rank is {self.rank}; give a positive rank, or 0 for no adapters")
        if self.rank and not 0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha is {self.alpha}; adapters need a positive one")
        for target in self.targets:
            if target not in TARGETS:
                raise UserError(f"lora.targets has {target!r}; choose among {', '.join(TARGETS)}")
        if self.rank and not self.targets:
            raise UserError("lora.targets is empty; name a projection, or set lora.rank to 0")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


NO_LORA = LoraSettings()


@flax.struct.dataclass
class Factors:
    """A and B of one projection in all layers, with its input axes and its output axes."""

    a: Leaf  # N in... Z
    b: Leaf  # N Z out...


@flax.struct.dataclass
class Adapters:
    """The factors of every target. Like `Params`, of real or abstract arrays, or of what describes
    them."""

    factors: dict[str, Factors]
    scale: float = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class LowRank:
    """A leaf of `LayerParams`: a matrix and its adapter."""

    w: Leaf  # N in... out...
    a: Leaf
    b: Leaf
    scale: float = flax.struct.field(pytree_node=False)


# What training changes: all parameters, or adapters of parameters that stay as they are.
Trained = Params | Adapters


def adapter_shapes(cfg: ModelConfig, settings: LoraSettings) -> Adapters:
    """Abstract adapters, float32. Raises UserError for a target that the model does not have."""
    layers = shapes(cfg).layers

    def factors(target: str) -> Factors:
        if getattr(layers, target) is None:
            raise UserError(
                f"lora.targets has {target!r}, which {cfg.name} has not as one matrix a layer "
                "(experts have no adapters); leave it out"
            )
        inner, outer = _sides(target, getattr(layers, target).shape[1:])
        leaf = lambda *axes: jax.ShapeDtypeStruct((cfg.layers, *axes), jnp.float32)  # noqa: E731
        return Factors(leaf(*inner, settings.rank), leaf(settings.rank, *outer))

    return Adapters({target: factors(target) for target in settings.targets}, settings.scale)


def adapter_axes(cfg: ModelConfig, settings: LoraSettings) -> Adapters:
    """The logical axes of every leaf: those of the base, and the rank's."""

    def factors(target: str) -> Factors:
        layers, *axes = getattr(logical_axes(cfg).layers, target)
        inner, outer = _sides(target, axes)
        return Factors((layers, *inner, "rank"), (layers, "rank", *outer))

    return Adapters({target: factors(target) for target in settings.targets}, settings.scale)


def trained_shapes(cfg: ModelConfig, settings: LoraSettings) -> Trained:
    """What training changes, abstract: adapters where there are some, or else all parameters."""
    return adapter_shapes(cfg, settings) if settings.rank else shapes(cfg)


def trained_axes(cfg: ModelConfig, settings: LoraSettings) -> Trained:
    """The logical axes of `trained_shapes`."""
    return adapter_axes(cfg, settings) if settings.rank else logical_axes(cfg)


def _sides(target: str, axes: Any) -> tuple[Any, Any]:
    """Of what describes the axes of a projection: its input axes, its output axes."""
    return axes[: TARGETS[target]], axes[TARGETS[target] :]


def init_adapters(key: jax.Array, cfg: ModelConfig, settings: LoraSettings) -> Adapters:
    """As PEFT begins: A uniform within 1/sqrt(inputs), B zero, so that the policy is the base."""
    abstract = adapter_shapes(cfg, settings)
    keys = dict(zip(abstract.factors, jax.random.split(key, len(abstract.factors)), strict=True))

    def factors(target: str) -> Factors:
        a, b = abstract.factors[target].a, abstract.factors[target].b
        bound = math.prod(a.shape[1:-1]) ** -0.5
        drawn = jax.random.uniform(keys[target], a.shape, a.dtype, -bound, bound)
        return Factors(drawn, jnp.zeros(b.shape, b.dtype))

    return replace(abstract, factors={target: factors(target) for target in abstract.factors})


def attach(base: Params, adapters: Adapters) -> Params:
    """The policy of a base with adapters; its leaves are theirs."""
    leaves: dict[str, Any] = {
        target: LowRank(getattr(base.layers, target), own.a, own.b, adapters.scale)
        for target, own in adapters.factors.items()
    }
    return replace(base, layers=replace(base.layers, **leaves))


def detach(policy: Params) -> tuple[Params | None, Trained]:
    """The frozen base and what training changes: the inverse of `attach`, or None and the
    parameters themselves where they have no adapters."""
    layers = policy.layers
    adapted = {t: x for t in TARGETS if isinstance(x := getattr(layers, t), LowRank)}
    if not adapted:
        return None, policy
    (scale,) = {leaf.scale for leaf in adapted.values()}
    frozen = replace(layers, **{target: leaf.w for target, leaf in adapted.items()})
    factors = {target: Factors(leaf.a, leaf.b) for target, leaf in adapted.items()}
    return replace(policy, layers=frozen), Adapters(factors, scale)


def policy_of(trained: Trained, base: Params | None) -> Params:
    """The inverse of `detach`."""
    if isinstance(trained, Adapters):
        assert base is not None
        return attach(base, trained)
    return trained


def project(x: jax.Array, leaf: Leaf, axes: str, precision: Precision) -> jax.Array:
    """`product(axes, x, W, precision)` for a `leaf` W, for a `LowRank` one with W + scale * A B.

    The adapter's part goes through its rank, in the dtype of `x`; no matrix of W's size is made.
    """
    if not isinstance(leaf, LowRank):
        return product(axes, x, leaf, precision)
    down, up = _through_rank(axes)
    narrow = jnp.einsum(down, x, leaf.a.astype(x.dtype))
    update = jnp.einsum(up, narrow, (leaf.scale * leaf.b).astype(x.dtype))
    # By its name a backward pass may keep the sum instead of both its terms.
    return checkpoint_name(product(axes, x, leaf.w, precision) + update, PROJECTED)


def rounded_projections(layers: LayerParams, cfg: ModelConfig) -> LayerParams:
    """With the matrices that `project` takes as it multiplies them."""
    if cfg.matmul_precision == "float32":
        return layers

    def rounded(leaf: Leaf) -> Leaf:
        if isinstance(leaf, LowRank):
            return replace(leaf, w=rounded(leaf.w))
        return leaf.astype(cfg.matmul_precision)

    own = {target: getattr(layers, target) for target in TARGETS}
    return replace(layers, **{t: rounded(leaf) for t, leaf in own.items() if leaf is not None})


def _through_rank(axes: str) -> tuple[str, str]:
    """ "td,dhge->thge" in two steps: "td,dz->tz" and "tz,zhge->thge"."""
    given, matrix, out = re.split(",|->", axes)
    inner = "".join(axis for axis in matrix if axis not in out)
    outer = "".join(axis for axis in matrix if axis in out)
    kept = "".join(axis for axis in given if axis not in inner)
    return f"{given},{inner}z->{kept}z", f"{kept}z,z{outer}->{out}"


def is_low_rank(leaf: Any) -> bool:
    """For `is_leaf` of `jax.tree`."""
    return isinstance(leaf, LowRank)


def dense(leaf: Leaf) -> jax.Array:
    """A leaf, where it has an adapter merged: W + scale * A B in float32, then in W's dtype."""
    return _merged(leaf) if isinstance(leaf, LowRank) else leaf


@jax.jit
def _merged(leaf: LowRank) -> jax.Array:
    product = jax.vmap(partial(jnp.tensordot, axes=1))(leaf.a, leaf.scale * leaf.b)
    return (leaf.w.astype(jnp.float32) + product).astype(leaf.w.dtype)


def merge(policy: Params) -> Params:
    """Plain parameters of the same policy."""
    return jax.tree.map(dense, policy, is_leaf=is_low_rank)
