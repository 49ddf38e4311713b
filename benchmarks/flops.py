"""Floating-point operations of an update."""

import dataclasses

from benchmarks.layouts import Work
from pivotrl_jax.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class Flops:
    """Of one forward pass: matrix products of the layers, attention over visible pairs, head."""

    layers: float
    attention: float
    head: float


def forward(cfg: ModelConfig, work: Work) -> Flops:
    """Two per multiply-add; norms, rotations and softmax are left out.

    Local layers count as if they saw everything.
    """
    own = cfg.heads * cfg.head_dim
    matrices = cfg.width * (2 * own + 2 * cfg.kv_heads * cfg.head_dim + 3 * cfg.ffn)
    return Flops(
        layers=2.0 * cfg.layers * matrices * work.tokens,
        attention=4.0 * cfg.layers * own * work.pairs,
        head=2.0 * cfg.vocab * cfg.width * work.scored,
    )


def model(cfg: ModelConfig, work: Work) -> float:
    """Forward and backward, nothing done twice: what MFU counts."""
    flops = forward(cfg, work)
    return 3 * (flops.layers + flops.attention + flops.head)


# Forward passes that the head costs: the supervised loss recomputes the logits going back and has
# two products there; the policy loss goes forward once more (`kernels.grpo.fused`).
SUPERVISED_HEAD, POLICY_HEAD = 4, 5


def update(cfg: ModelConfig, work: Work, head: int) -> float:
    """What an update with remat "full" computes; `head` as above.

    Layers are done twice forward and twice backward; attention keeps its output and recomputes its
    scores (2 products forward, 5 backward).
    """
    flops = forward(cfg, work)
    return 4 * flops.layers + 3.5 * flops.attention + head * flops.head
