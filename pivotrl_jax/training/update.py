"""The jitted, donated, sharded update: one function for SFT, one for PivotRL."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from kernels.grpo import AdvantageSettings, Groups, GrpoStats, ScoredTokens, grpo, score
from kernels.linear_logprob import LogProbs
from pivotrl_jax.models import ModelConfig, Params, Remat, head, hidden, hidden_and_load
from pivotrl_jax.models.lora import Trained, policy_of
from pivotrl_jax.objectives import PolicySettings, SupervisedStats, loss_count, supervised_loss
from pivotrl_jax.parallel import constrain
from pivotrl_jax.training.expert_load import change_metrics, count_changes, load_metrics
from pivotrl_jax.training.state import TrainState, apply_gradients
from pivotrl_jax.trees import TokenTree


@flax.struct.dataclass
class SupervisedBatch:
    """R rows, or M micro-batches of R rows each. `index` lists the scored tokens of a row; padding
    weighs 0."""

    tree: TokenTree  # *M R T
    index: Int[Any, "*M R A"]
    weight: Float[Any, "*M R A"]


@flax.struct.dataclass
class ExpertTokens:
    """The tokens of the experts' own actions, which lie on the trunks; padding weighs 0."""

    index: Int[Any, "*M R A"]
    weight: Float[Any, "*M R A"]


@flax.struct.dataclass
class PolicyBatch:
    """Like SupervisedBatch, with what eq. 7 needs to know: of every scored token its sample within
    the row (p * K + k) and its log-prob when sampled, of every sample its reward. `routes` are the
    experts that tokens went through when sampled, `models.experts.UNKNOWN` where not recorded."""

    tree: TokenTree  # *M R T
    index: Int[Any, "*M R A"]
    weight: Float[Any, "*M R A"]
    sample: Int[Any, "*M R A"]
    old_logp: Float[Any, "*M R A"]
    groups: Groups  # *M R P K
    experts: ExpertTokens | None = None  # for a supervised term
    routes: Int[Any, "*M R T N J"] | None = None


Metrics = dict[str, Any]  # scalars
Weights = TypeVar("Weights", Params, Trained)


def token_logprobs(
    params: Params,
    cfg: ModelConfig,
    tree: TokenTree,
    index_RA: Int[Array, "R A"],
    *,
    temperature: float = 1.0,
    remat: Remat = "dots",
) -> LogProbs:
    """Log-prob, log-sum-exp and entropy [R, A] of the scored tokens of a tree, float32.

    The head is applied to the tokens before the scored ones only, and no [tokens, vocab] array
    is built.
    """
    h_RAD, labels_RA = before_scored(hidden(params, cfg, tree, remat), tree, index_RA)
    return score(h_RAD, head(params, h_RAD.dtype), labels_RA, temperature=temperature)


def before_scored(
    hidden_RTD: Float[Array, "R T D"], tree: TokenTree, index_RA: Int[Array, "R A"]
) -> tuple[Float[Array, "R A D"], Int[Array, "R A"]]:
    """The hidden states that predict the scored tokens, and these tokens."""
    parents = jnp.take_along_axis(tree.parents, index_RA, axis=1)
    labels = jnp.take_along_axis(tree.tokens, index_RA, axis=1)
    h = jnp.take_along_axis(hidden_RTD, parents[..., None], axis=1)
    return constrain(h, "rows", None, None), labels


def accumulate(
    loss: Callable[[Weights, Any], tuple[jax.Array, Any]], params: Weights, batch: Any
) -> tuple[Weights, jax.Array, Any]:
    """Sums gradients, in float32, and losses over micro-batches (leading axis M); stacks their
    statistics."""
    grad = jax.value_and_grad(loss, has_aux=True)

    def body(carry: tuple, micro: Any) -> tuple[tuple, Any]:
        grads, total = carry
        (value, stats), new = grad(params, micro)
        return (jax.tree.map(jnp.add, grads, new), total + value), stats

    zeros = jax.tree.map(partial(jnp.zeros_like, dtype=jnp.float32), params)
    (grads, total), stats = jax.lax.scan(body, (zeros, jnp.float32(0)), batch)
    return grads, total, stats


def supervised_update(
    cfg: ModelConfig, optimizer: optax.GradientTransformation, layout: TrainState, remat: Remat
) -> jax.stages.Wrapped:
    """SFT on the expert actions of whole trajectories: -E log pi(a*|s) over action tokens.

    The update takes the state, which is donated, micro-batches and, where the state has adapters,
    their frozen base, and gives state and metrics.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=(layout, None))
    def update(
        state: TrainState, batch: SupervisedBatch, base: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        normaliser = batch.weight.sum()

        def loss(trained: Trained, micro: SupervisedBatch) -> tuple[jax.Array, Any]:
            params = policy_of(trained, base)
            h, load, _ = hidden_and_load(params, cfg, micro.tree, remat)
            h_RAD, labels = before_scored(h, micro.tree, micro.index)
            scores = score(h_RAD, head(params, h_RAD.dtype), labels)
            with jax.named_scope("loss"):
                value, stats = supervised_loss(scores.logp_T, micro.weight, normaliser)
            return value, (stats.hits, jnp.sum(scores.entropy_T * micro.weight), load)

        grads, value, (hits, entropy, load) = accumulate(loss, state.params, batch)
        metrics = {
            "loss": value,
            "accuracy": hits.sum() / normaliser,
            "entropy": entropy.sum() / normaliser,
            "grad_norm": optax.global_norm(grads),
            "action_tokens": normaliser,
            **load_metrics(load),
        }
        return apply_gradients(state, grads, optimizer), metrics

    return update


def policy_update(
    cfg: ModelConfig,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
    policy: PolicySettings,
    advantage: AdvantageSettings,
    *,
    temperature: float,
    remat: Remat,
    sft_coef: float = 0.0,
) -> jax.stages.Wrapped:
    """Single-turn GRPO on pivots (paper eq. 7), plus `sft_coef` times `expert_loss`.

    The update takes the state, which is donated, the frozen policy pi_0 (None when `kl_coef` is 0),
    micro-batches and, where the state has adapters, their frozen base, and gives state and metrics.
    pi_0 is of the state's kind: with adapters it is others of the same base. Log-probs are those at
    the sampling `temperature`, but for the experts'. Where the batch has `routes`, the policy's
    tokens go through these experts, while pi_0 follows its own router. ValueError where an
    `sft_coef` meets a batch without `experts`.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=(layout, None))
    def update(
        state: TrainState,
        reference: Trained | None,
        batch: PolicyBatch,
        base: Params | None = None,
    ) -> tuple[TrainState, Metrics]:
        normaliser = _normaliser(batch, policy)
        if sft_coef and batch.experts is None:
            raise ValueError("sft_coef is not 0, so policy_update needs the batch's experts")
        expert_tokens = jnp.float32(0) if batch.experts is None else batch.experts.weight.sum()

        def loss(trained: Trained, micro: PolicyBatch) -> tuple[jax.Array, Any]:
            params = policy_of(trained, base)
            ref_logp = None
            if reference is not None:
                frozen = policy_of(reference, base)
                ref_logp = _reference_logp(frozen, cfg, micro, temperature, remat)
            h, load, changed = hidden_and_load(params, cfg, micro.tree, remat, micro.routes)
            use = load, count_changes(changed, micro.routes, micro.index, micro.weight)
            h_RAD, labels = before_scored(h, micro.tree, micro.index)
            tokens = ScoredTokens(labels, micro.weight, micro.sample, micro.old_logp, ref_logp)
            of_head = h_RAD, head(params, h_RAD.dtype), tokens, micro.groups, normaliser
            with jax.named_scope("loss"):
                value, stats = grpo(*of_head, policy, advantage, temperature=temperature)
            if micro.experts is None:
                return value, (stats, None, use)
            nll, own = expert_loss(params, h, micro.tree, micro.experts, expert_tokens)
            return value + sft_coef * nll, (stats, own, use)

        grads, value, (stats, own, (load, changes)) = accumulate(loss, state.params, batch)
        metrics = {"loss": value, "grad_norm": optax.global_norm(grads), **_policy_metrics(stats)}
        metrics |= {**load_metrics(load), **change_metrics(changes)}
        metrics |= _expert_metrics(own, expert_tokens)
        return apply_gradients(state, grads, optimizer), metrics

    return update


def _normaliser(batch: PolicyBatch, policy: PolicySettings) -> Float[Array, ""]:
    """`loss_count` of all micro-batches."""
    samples = math.prod(batch.groups.reward_RPK.shape[-2:])
    count = partial(loss_count, aggregation=policy.aggregation, samples=samples)
    return jax.vmap(count)(batch.weight, batch.sample).sum()


def _reference_logp(
    frozen: Params, cfg: ModelConfig, micro: PolicyBatch, temperature: float, remat: Remat
) -> Float[Array, "R A"]:
    """Of the policy pi_0."""
    with jax.named_scope("reference"):
        scores = token_logprobs(
            frozen, cfg, micro.tree, micro.index, temperature=temperature, remat=remat
        )
    return scores.logp_T


def _policy_metrics(stats: GrpoStats) -> Metrics:
    """Of all micro-batches (leading axis M)."""
    own, tokens = stats.policy, jnp.maximum(stats.policy.tokens.sum(), 1)
    return {
        "kl": own.kl.sum() / tokens,
        "entropy": stats.entropy.sum() / tokens,
        "clip_share": own.clipped.sum() / tokens,
        "ratio_max": own.ratio_max.max(),
        "logp_gap": own.logp_gap.max(),
        "action_tokens": tokens,
    }


def _expert_metrics(own: SupervisedStats | None, tokens: Float[Array, ""]) -> Metrics:
    """Of all micro-batches, where experts' turns are in them."""
    if own is None:
        return {}
    return {
        "sft_loss": own.nll.sum() / tokens,
        "sft_accuracy": own.hits.sum() / tokens,
        "expert_tokens": tokens,
    }


def expert_loss(
    params: Params,
    hidden_RTD: Float[Array, "R T D"],
    tree: TokenTree,
    experts: ExpertTokens,
    normaliser: Float[Array, ""],
) -> tuple[Float[Array, ""], SupervisedStats]:
    """-log pi(a* | s) of the experts' actions over `normaliser`, the number of their tokens.

    As in SFT, the temperature is 1 and every expert token weighs the same. The hidden states are
    those of the trunks that the samples hang on, so that the head is all it costs.
    """
    with jax.named_scope("expert_loss"):
        h_RAD, labels_RA = before_scored(hidden_RTD, tree, experts.index)
        logp_RA = score(h_RAD, head(params, h_RAD.dtype), labels_RA).logp_T
        return supervised_loss(logp_RA, experts.weight, normaliser)
