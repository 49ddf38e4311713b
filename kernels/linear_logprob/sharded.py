"""The op on a mesh: every device works on its own tokens and its own slice of the vocabulary.

The head is never gathered: devices exchange partials forward and the hidden states' gradient
backward. The derivative is taken around `shard_map`, whose own would add sums over devices.
"""

import dataclasses
import functools

import jax
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from kernels.linear_logprob import fused, xla
from kernels.linear_logprob.fused import Settings
from kernels.linear_logprob.partials import combine, finish
from kernels.linear_logprob.reference import LogProbs


@dataclasses.dataclass(frozen=True)
class Shards:
    """The axes of the mesh of `jax.set_mesh` that divide tokens and vocabulary; () for none."""

    tokens: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()

    def specs(self) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
        """Of hidden states, head and anything with one number per token."""
        return (
            PartitionSpec(self.tokens, None),
            PartitionSpec(self.vocab, None),
            PartitionSpec(self.tokens),
        )


def _own(labels_T: Int[Array, "T"], slice_size: int, shards: Shards) -> Int[Array, "T"]:
    """Labels counted from the start of this device's slice; those of other slices match no row."""
    return labels_T - lax.axis_index(shards.vocab) * slice_size


# Interpreted kernels and the loops' first carries do not say over which axes they vary.
_shard_map = functools.partial(jax.shard_map, check_vma=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    settings: Settings,
    shards: Shards,
) -> LogProbs:
    """As `fused.linear_logprob`, on the mesh of `jax.set_mesh`; the axes divide T and V."""

    def local(hidden_TD: Array, head_VD: Array, labels_T: Array) -> LogProbs:
        labels_T = _own(labels_T, head_VD.shape[0], shards)
        parts = fused.partials(hidden_TD, head_VD, labels_T, settings)
        largest = functools.partial(lax.pmax, axis_name=shards.vocab)
        add = functools.partial(lax.psum, axis_name=shards.vocab)
        return finish(combine(parts, largest, add))

    per_token = shards.specs()[2]
    run = _shard_map(local, in_specs=shards.specs(), out_specs=per_token)
    return run(hidden_TD, head_VD, labels_T)


def _forward(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    settings: Settings,
    shards: Shards,
) -> tuple[LogProbs, xla.Residuals]:
    out = linear_logprob(hidden_TD, head_VD, labels_T, settings, shards)
    return out, (hidden_TD, head_VD, labels_T, out.lse_T, out.entropy_T)


def _backward(
    settings: Settings, shards: Shards, residuals: xla.Residuals, cotangents: LogProbs
) -> tuple[Float[Array, "T D"], Float[Array, "V D"], None]:
    def local(residuals: xla.Residuals, cotangents: LogProbs) -> tuple[Array, Array]:
        hidden_TD, head_VD, labels_T, lse_T, entropy_T = residuals
        labels_T = _own(labels_T, head_VD.shape[0], shards)
        d_hidden_TD, d_head_VD = xla.gradients(
            (hidden_TD, head_VD, labels_T, lse_T, entropy_T),
            cotangents,
            settings.temperature,
            settings.soft_cap,
            settings.block,
        )
        d_hidden_TD = lax.psum(d_hidden_TD, shards.vocab).astype(hidden_TD.dtype)
        return d_hidden_TD, lax.psum(d_head_VD, shards.tokens)

    hidden_spec, head_spec, per_token = shards.specs()
    run = _shard_map(
        local,
        in_specs=((hidden_spec, head_spec, per_token, per_token, per_token), per_token),
        out_specs=(hidden_spec, head_spec),
    )
    return *run(residuals, cotangents), None


linear_logprob.defvjp(_forward, _backward)
