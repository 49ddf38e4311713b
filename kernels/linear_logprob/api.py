"""The one entry point; it chooses the implementation."""

import jax
from jaxtyping import Array, Float, Int

from kernels.backend import Implementation, choose, device
from kernels.linear_logprob import blocks, fused, pallas, reference, sharded
from kernels.linear_logprob.reference import LogProbs
from kernels.linear_logprob.sharded import Shards
from pivotrl_jax.parallel.sharding import RULES, spec


def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    block: int = 4096,
    implementation: Implementation = "auto",
    interpret: bool = False,
    shards: Shards | None = None,
) -> LogProbs:
    """Log-probability, log-sum-exp and entropy of softmax(z), float32, without the logits z.

    z = soft_cap * tanh(hidden @ head.T / soft_cap) / temperature, without a cap hidden @ head.T /
    temperature. Operands are bfloat16 or float32, sums are float32; labels lie in [0, V); T and V
    may be any size. Differentiable in `hidden_TD` and `head_VD` through all three results.
    `block` is the number of vocabulary rows that the loops in XLA take at a time. `interpret` runs
    "pallas" on any device, for tests. Under `jax.set_mesh` every device works on its `shards` of
    tokens and vocabulary, which are those of `pivotrl_jax.parallel` unless given. "auto" is
    "pallas" on TPU and "xla" elsewhere: the Triton form has been lowered but not yet timed on a
    GPU, so one has to ask for it. Raises UserError for an `implementation` that is unknown or
    cannot run here.
    """
    chosen = _choose(head_VD, implementation, interpret)
    if chosen == "reference":
        return reference.linear_logprob(hidden_TD, head_VD, labels_T, temperature, soft_cap)
    target = _target(head_VD, interpret) if chosen == "pallas" else None
    settings = fused.Settings(temperature, soft_cap, block, target)
    shards = shards or _shards(len(hidden_TD), len(head_VD))
    if shards is None:
        return fused.linear_logprob(hidden_TD, head_VD, labels_T, settings)
    return sharded.linear_logprob(hidden_TD, head_VD, labels_T, settings, shards)


def _shards(tokens: int, vocab: int) -> Shards | None:
    """How the mesh divides tokens and vocabulary; None where there is one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return None

    def dividing(name: str, size: int) -> tuple[str, ...]:
        return RULES[name] if spec((name,), (size,), mesh)[0] else ()

    return Shards(dividing("tokens", tokens) or dividing("rows", tokens), dividing("vocab", vocab))


def _choose(head_VD: Float[Array, "V D"], implementation: Implementation, interpret: bool) -> str:
    vocab, width = head_VD.shape
    runs_on = [name for name in ("tpu", "gpu") if pallas.fits(width, vocab, name)]
    needs = f"a TPU, or a GPU and a width that 16 divides (the head is {vocab} x {width}),"
    return choose("linear_logprob", implementation, interpret, runs_on=runs_on, needs=needs)


def _target(head_VD: Float[Array, "V D"], interpret: bool) -> pallas.Target:
    if interpret:
        return pallas.Target("tpu", blocks.Blocks(), interpret=True)
    platform, kind = device()
    return pallas.Target(platform, blocks.choose(kind, head_VD.shape[1] * head_VD.dtype.itemsize))
