"""Expert-drafted sampling: how far samples follow the expert, read off the trunk's prefill.

The prefill of a trunk holds the policy's distribution before every token of every expert action.
Drawing from it at all positions and for all samples at once, a sample follows the expert until its
first token that differs, and only from there on is it decoded. Every token is still an ordinary
draw from its own conditional distribution, with the key that token-by-token sampling would use: the
samples are the same, with or without a draft.
"""

from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pivotrl_jax.models.params import Params, head, head_logits
from pivotrl_jax.parallel import constrain, fetch, put_rows
from pivotrl_jax.sampling.tokens import (
    Distribution,
    SamplingSettings,
    distribution,
    invert_cdf,
    sample_keys,
)
from pivotrl_jax.sampling.types import Request, Sample
from pivotrl_jax.trees import round_up

# Positions per round. Samples of an undecided policy leave within a few tokens, and the logits of
# positions beyond would be for nothing.
BLOCK = 16
NO_TOKEN = -1


@flax.struct.dataclass
class Draft:
    """Of one candidate per row: tokens accepted by each sample, and the expert tokens' log-probs
    (as `tokens.draw` reports them; zeros beyond the longest sample's first departure)."""

    accepted_QK: Int[Array, "Q K"]
    behaviour_QS: Float[Array, "Q S"]
    plain_QS: Float[Array, "Q S"]


@partial(jax.jit, static_argnames="settings")
def draft(
    params: Params,
    hidden_QLD: Float[Array, "Q L D"],
    expert_QS: Int[Array, "Q S"],
    start_Q: Int[Array, "Q"],
    keys_QK: PRNGKeyArray,
    settings: SamplingSettings,
) -> Draft:
    """Draws K samples along the expert's action at `start`, until all of them have left it.

    `hidden_QLD` are the trunk's final hidden states; `expert_QS` holds NO_TOKEN beyond the action.
    """
    size = round_up(expert_QS.shape[1], BLOCK)
    expert_QS = jnp.pad(
        expert_QS, ((0, 0), (0, size - expert_QS.shape[1])), constant_values=NO_TOKEN
    )
    zeros = jnp.zeros(expert_QS.shape, jnp.float32)
    head_VD = head(params, hidden_QLD.dtype)

    def going(carry: tuple[jax.Array, Draft]) -> jax.Array:
        return (carry[0] < size) & (carry[1].accepted_QK == carry[0]).any()

    def follow(carry: tuple[jax.Array, Draft]) -> tuple[jax.Array, Draft]:
        at, found = carry
        steps_S = at + jnp.arange(BLOCK)
        labels_QS = jax.lax.dynamic_slice_in_dim(expert_QS, at, BLOCK, axis=1)
        with jax.named_scope("draft"):
            ahead = _distributions(head_VD, hidden_QLD, start_Q[:, None] + steps_S, settings)
            tokens_QKS = _drawn(ahead, keys_QK, steps_S)
        follows = jnp.cumprod(tokens_QKS == labels_QS[:, None], axis=-1).sum(axis=-1)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=1)
        behaviour_QS, plain_QS = ahead.log_probs(labels_QS)
        return at + BLOCK, Draft(
            found.accepted_QK + jnp.where(found.accepted_QK == at, follows, 0),
            put(found.behaviour_QS, behaviour_QS),
            put(found.plain_QS, plain_QS),
        )

    start = Draft(jnp.zeros(keys_QK.shape, jnp.int32), zeros, zeros)
    return jax.lax.while_loop(going, follow, (jnp.int32(0), start))[1]


def _distributions(
    head_VD: Float[Array, "V D"],
    hidden_QLD: Float[Array, "Q L D"],
    positions_QS: Int[Array, "Q S"],
    settings: SamplingSettings,
) -> Distribution:
    """Of the tokens at `positions`."""
    before = jnp.clip(positions_QS - 1, 0, hidden_QLD.shape[1] - 1)[..., None]
    hidden_QSD = jnp.take_along_axis(hidden_QLD, before, axis=1)
    hidden_QSD = constrain(hidden_QSD, "rows", "places", None)
    logits_QSV = head_logits(hidden_QSD, head_VD)
    return distribution(constrain(logits_QSV, "rows", "places", None), settings)


def _drawn(
    ahead: Distribution, keys_QK: PRNGKeyArray, steps_S: Int[Array, "S"]
) -> Int[Array, "Q K S"]:
    """The token of every sample at every position, each with the key of its step."""

    def one(key: PRNGKeyArray, step: jax.Array, weights_WU: jax.Array) -> jax.Array:
        return invert_cdf(jax.random.uniform(jax.random.fold_in(key, step)), weights_WU)

    over_samples = jax.vmap(one, in_axes=(0, None, None))
    over_steps = jax.vmap(over_samples, in_axes=(None, 0, 0), out_axes=1)
    return jax.vmap(over_steps, in_axes=(0, None, 0))(keys_QK, steps_S, ahead.weights)


def groups(requests: Sequence[Request]) -> list[list[int]]:
    """The numbers of the requests of each candidate."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for number, r in enumerate(requests):
        found.setdefault((r.candidate, r.start, r.end), []).append(number)
    return list(found.values())


def follow_experts(
    params: Params,
    hidden_QLD: Float[Array, "Q L D"],
    tokens_QL: Int[np.ndarray, "Q L"],
    requests: Sequence[Sequence[Request]],
    most: int,
    key: PRNGKeyArray,
    ends: tuple[int, ...],
    settings: SamplingSettings,
    mesh: Mesh,
    routes_QLNJ: Int[np.ndarray, "Q L N J"] | None = None,
) -> list[list[Sample]]:
    """How far every request of Q prefilled trunks follows its expert: its sample so far.

    One that is not `truncated` or has `max_tokens` tokens needs no decoding. No candidate has more
    than `most` requests. `routes_QLNJ` are the trunks' own, if those of the samples are wanted.
    """
    drafts = [[_EMPTY] * len(own) for own in requests]
    by_candidate = [groups(own) for own in requests]
    for turn in range(max(map(len, by_candidate))):
        members_Q = [own[turn] if turn < len(own) else [] for own in by_candidate]
        expert_QS, start_Q, ids_QK, samples_QK = _round(
            tokens_QL, requests, members_Q, most, settings.max_tokens
        )
        keys_QK = sample_keys(key, *put_rows((ids_QK, samples_QK), mesh))
        expert_start = put_rows((expert_QS, start_Q), mesh)
        found = fetch(draft(params, hidden_QLD, *expert_start, keys_QK, settings))
        for row, members in enumerate(members_Q):
            for place, number in enumerate(members):
                n = int(found.accepted_QK[row, place])
                ended = n > 0 and expert_QS[row, n - 1] in ends
                start = start_Q[row]
                drafts[row][number] = Sample(
                    expert_QS[row, :n],
                    found.behaviour_QS[row, :n],
                    found.plain_QS[row, :n],
                    truncated=not ended,
                    drafted=n,
                    routes=None if routes_QLNJ is None else routes_QLNJ[row, start : start + n],
                )
    return drafts


_EMPTY = Sample(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32), True)


def _round(
    tokens_QL: Int[np.ndarray, "Q L"],
    requests: Sequence[Sequence[Request]],
    members_Q: Sequence[Sequence[int]],
    most: int,
    cap: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Expert tokens, starts and key numbers of at most one candidate per row."""
    rows = len(members_Q)
    expert_QS, start_Q = np.full((rows, cap), NO_TOKEN, np.int32), np.zeros(rows, np.int32)
    ids_QK, samples_QK = np.zeros((rows, most), np.uint32), np.zeros((rows, most), np.int32)
    for row, members in enumerate(members_Q):
        own = [requests[row][number] for number in members]
        for first in own[:1]:
            action = tokens_QL[row, first.start : first.end][:cap]
            expert_QS[row, : len(action)] = action
            start_Q[row], ids_QK[row] = first.start, first.candidate
        samples_QK[row, : len(own)] = [r.sample for r in own]
    return expert_QS, start_Q, ids_QK, samples_QK
