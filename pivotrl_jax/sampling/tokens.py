"""Drawing one token from logits, with the log-prob of the distribution that was drawn from."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pivotrl_jax.errors import UserError

MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How actions are drawn. `max_tokens` caps an action, its end-of-turn token included."""

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(
                f"sampling.temperature is {self.temperature}; it must be positive (0.01 is greedy)"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"sampling.top_p is {self.top_p}; it must lie in (0, 1]")
        if self.top_k < 0:
            raise UserError(f"sampling.top_k is {self.top_k}; it must be positive, or 0 for all")
        if self.max_tokens < 1:
            raise UserError(f"sampling.max_tokens is {self.max_tokens}; it must be at least 1")


def truncate(logits: Float[Array, "*B V"], settings: SamplingSettings) -> Float[Array, "*B V"]:
    """Masks what top-k and nucleus (top-p) sampling leave out; ties at the border stay in."""
    if settings.top_k:
        kth = jax.lax.top_k(logits, min(settings.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < kth, MASKED, logits)
    if settings.top_p < 1:
        descending = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(descending, axis=-1)
        # A token stays when the mass before it is below top_p, so the first always does.
        stays = jnp.cumsum(probs, axis=-1) - probs < settings.top_p
        border = jnp.min(jnp.where(stays, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < border, MASKED, logits)
    return logits


@flax.struct.dataclass
class Distribution:
    """What a token is drawn from: softmax(`kept`), whose weights lie in W blocks of U tokens."""

    kept: Float[Array, "*B V"]  # tempered and truncated logits
    lse: Float[Array, "*B"]  # of `kept`
    weights: Float[Array, "*B W U"]  # softmax(kept), not yet normalised; zeros beyond V
    logits: Float[Array, "*B V"]
    plain_lse: Float[Array, "*B"]  # of `logits`

    def log_probs(self, tokens: Int[Array, "*B"]) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
        """Behaviour log-probs, those of the distribution that is drawn from, and plain ones, those
        of softmax(logits)."""
        pick = lambda x: jnp.take_along_axis(x, tokens[..., None], axis=-1)[..., 0]  # noqa: E731
        return pick(self.kept) - self.lse, pick(self.logits) - self.plain_lse


def distribution(logits: Float[Array, "*B V"], settings: SamplingSettings) -> Distribution:
    """One pass of exponentials over the vocabulary serves log-probs and draws."""
    kept = truncate(logits / settings.temperature, settings)
    largest = kept.max(axis=-1, keepdims=True)
    weights = in_blocks(jnp.exp(kept - largest))
    lse = largest[..., 0] + jnp.log(weights.sum(axis=-1).sum(axis=-1))
    changed = settings.temperature != 1 or settings.top_k or settings.top_p < 1
    plain_lse = jax.nn.logsumexp(logits, axis=-1) if changed else lse
    return Distribution(kept, lse, weights, logits, plain_lse)


def draw(
    keys: PRNGKeyArray, logits: Float[Array, "B V"], settings: SamplingSettings
) -> tuple[Int[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """One token per row, its behaviour log-prob and its plain one (`Distribution.log_probs`).

    The draw inverts the cumulative distribution at one uniform number per key, which costs one
    random number instead of V. The number has 23 bits: probabilities are met to 2^-23, and a token
    of a smaller one may never come.
    """
    found = distribution(logits, settings)
    tokens = jax.vmap(invert_cdf)(jax.vmap(jax.random.uniform)(keys), found.weights)
    return tokens, *found.log_probs(tokens)


def in_blocks(weights: Float[Array, "*B V"]) -> Float[Array, "*B W U"]:
    """Blocks about sqrt(V) wide: short sums lose less than one running sum over V."""
    size = weights.shape[-1]
    width = 1 << max(1, (size.bit_length() + 1) // 2)
    padding = [(0, 0)] * (weights.ndim - 1) + [(0, -size % width)]
    return jnp.pad(weights, padding).reshape(*weights.shape[:-1], -1, width)


def invert_cdf(u: Float[Array, ""], weights_WU: Float[Array, "W U"]) -> Int[Array, ""]:
    """The token whose slice of the cumulative distribution holds `u` in [0, 1).

    First its block, then its place there. The weights need not add up to one.
    """
    mass = weights_WU.sum(axis=1)
    edges = jnp.cumsum(mass)
    u = u * edges[-1]
    block = first_beyond(u, edges, mass)
    before = jnp.where(block == 0, 0.0, edges[block - 1])
    own = weights_WU[block]
    token = first_beyond(u - before, jnp.cumsum(own), own)
    return (block * weights_WU.shape[1] + token).astype(jnp.int32)


def first_beyond(
    u: Float[Array, ""], edges: Float[Array, "W"], probs: Float[Array, "W"]
) -> Int[Array, ""]:
    """The first slice of positive mass that ends beyond `u`, or the last one of positive mass.

    Rounding may leave `u` just beyond the last edge, and XLA sums long arrays in a tree, so that
    an edge may lie beyond the one before it although there is no mass between the two.
    """
    index = jnp.arange(probs.size)
    last = jnp.max(jnp.where(probs > 0, index, 0))
    return jnp.min(jnp.where((edges > u) & (probs > 0), index, last))


@jax.jit
def sample_keys(key: PRNGKeyArray, *numbers_RB: Int[Array, "R B"]) -> PRNGKeyArray:
    """One key per sample: a run's key with the sample's numbers (uint32) folded into it in order,
    such as the candidate's id and the sample's number."""

    def one(*numbers: jax.Array) -> PRNGKeyArray:
        return functools.reduce(jax.random.fold_in, numbers, key)

    return jax.vmap(jax.vmap(one))(*numbers_RB)
