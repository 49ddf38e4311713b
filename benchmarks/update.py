"""One policy update on a token tree, against flat rows and against supervised fine-tuning.

    python -m benchmarks.update [--quick] [--layers N] [--json FILE]

The tree is built and updated as in training (`policy_batch`, `policy_update`, remat "full"); flat
means a row of history and action per sample, the same samples, objective and optimiser. Both sides
are without a KL reference; `seconds_kl` is the tree's update with one. Weights are random, in the
shapes of SmolLM2-135M.
"""

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax

from benchmarks import flops
from benchmarks.command import one_device, parser, run
from benchmarks.layouts import Point, Work, draw, flat_batches, sft_batch, tree_batch, work
from benchmarks.table import Row, report
from benchmarks.timing import medians
from kernels.grpo import AdvantageSettings, GrpoStats, ScoredTokens, grpo
from pivotrl_jax.models import ModelConfig, Params, head, hidden, init
from pivotrl_jax.models.presets import SMOLLM2_135M
from pivotrl_jax.objectives import PolicySettings, loss_count
from pivotrl_jax.training import (
    OptimizerSettings,
    PolicyBatch,
    SupervisedBatch,
    TrainState,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
    supervised_update,
)
from pivotrl_jax.training.state import apply_gradients
from pivotrl_jax.training.update import Metrics, accumulate, before_scored

GRID = (
    Point(history=256, action=32, samples=8, pivots=1),
    Point(history=1024, action=32, samples=8, pivots=1),
    Point(history=1024, action=32, samples=8, pivots=8),
    Point(history=1024, action=8, samples=8, pivots=8),
)
QUICK = (
    Point(history=1024, action=32, samples=8, pivots=1),
    Point(history=512, action=8, samples=4, pivots=2),
)
QUICK_LAYERS = 2
SIDES = ("tree", "flat", "sft", "optimizer", "trajectory", "kl")
QUICK_SIDES = SIDES[:4]
# Nothing is clipped, so that no token drops out of the head's backward pass.
NO_KL = PolicySettings(kl_coef=0.0, clip_low=1.0, clip_high=1e6)
KL_COEF = 0.001

TABLES = {
    "Tree against flat rows": (
        "history", "action", "samples", "pivots", "tokens_flat", "tokens_tree", "token_ratio",
        "seconds_flat", "seconds_tree", "speedup", "speedup_share",
    ),
    "Tree against supervised fine-tuning: of as many tokens, and of the bare trajectory": (
        "history", "action", "samples", "pivots", "tokens_tree", "seconds_tree", "seconds_sft",
        "sft_ratio", "sft_work", "sft_rate", "sft_optimizer", "seconds_trajectory",
        "trajectory_ratio", "seconds_kl",
    ),
    "Accounting: speedup = token_ratio x work x rate x optimizer": (
        "history", "action", "samples", "pivots", "token_ratio", "work", "rate", "optimizer",
        "speedup", "pairs_flat", "pairs_tree", "padding_flat", "padding_tree", "teraflops_flat",
        "teraflops_tree", "seconds_optimizer",
    ),
}  # fmt: skip

Step = Callable[[TrainState], TrainState]


def flat_update(
    cfg: ModelConfig,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
    settings: PolicySettings,
    samples: int,
) -> Callable[[TrainState, Sequence[PolicyBatch]], tuple[TrainState, Metrics]]:
    """`policy_update` without KL, on rows of one sample each and of several lengths.

    Every batch of the list has rows of one length; their gradients are added up. A group has
    `samples` samples.
    """
    count = partial(loss_count, aggregation=settings.aggregation, samples=samples)

    @partial(jax.jit, donate_argnums=0, out_shardings=(layout, None))
    def update(state: TrainState, batches: Sequence[PolicyBatch]) -> tuple[TrainState, Metrics]:
        counts = [jax.vmap(count)(batch.weight, batch.sample).sum() for batch in batches]
        normaliser = jnp.stack(counts).sum()

        def loss(params: Params, micro: PolicyBatch) -> tuple[jax.Array, GrpoStats]:
            hidden_RTD = hidden(params, cfg, micro.tree, "full")
            hidden_RAD, labels_RA = before_scored(hidden_RTD, micro.tree, micro.index)
            tokens = ScoredTokens(labels_RA, micro.weight, micro.sample, micro.old_logp, None)
            head_VD = head(params, hidden_RAD.dtype)
            return grpo(
                hidden_RAD, head_VD, tokens, micro.groups, normaliser, settings,
                AdvantageSettings(),
            )  # fmt: skip

        parts = [accumulate(loss, state.params, batch) for batch in batches]
        grads = jax.tree.map(lambda *xs: sum(xs), *(grads for grads, _, _ in parts))
        loss_sum = jnp.stack([value for _, value, _ in parts]).sum()
        metrics = {"loss": loss_sum, "grad_norm": optax.global_norm(grads)}
        return apply_gradients(state, grads, optimizer), metrics

    return update


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """What the sides of one point are updated on."""

    tree: PolicyBatch
    flat: list[PolicyBatch]
    sft: SupervisedBatch  # as many tokens as the tree has, as many of them scored
    trajectory: SupervisedBatch  # the bare trajectory and its experts' actions

    @property
    def works(self) -> dict[str, Work]:
        return {"tree": work([self.tree]), "flat": work(self.flat), "sft": work([self.sft])}


def batches(point: Point, vocab: int) -> Batches:
    drawn = draw(point, vocab)
    tree = tree_batch(drawn)
    own = work([tree])
    return Batches(
        tree=tree,
        flat=flat_batches(drawn, budget=tree.tree.shape[-1]),
        sft=sft_batch(own.tokens, own.scored, vocab),
        trajectory=sft_batch(len(drawn.trunk), point.action * point.pivots, vocab),
    )


def steps(
    batch: Batches,
    samples: int,
    cfg: ModelConfig,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
    reference: Params,
) -> dict[str, Step]:
    """The sides, each from state to state; a group has `samples` samples."""
    policy = partial(
        policy_update, cfg, optimizer, layout, advantage=AdvantageSettings(), temperature=1.0,
        remat="full",
    )  # fmt: skip
    by_tree, with_kl = policy(NO_KL), policy(dataclasses.replace(NO_KL, kl_coef=KL_COEF))
    by_row = flat_update(cfg, optimizer, layout, NO_KL, samples)
    supervised = supervised_update(cfg, optimizer, layout, "full")
    tree, flat, sft, trajectory = jax.device_put(
        (batch.tree, batch.flat, batch.sft, batch.trajectory)
    )
    return {
        "tree": lambda state: by_tree(state, None, tree)[0],
        "flat": lambda state: by_row(state, flat)[0],
        "sft": lambda state: supervised(state, sft)[0],
        "trajectory": lambda state: supervised(state, trajectory)[0],
        "kl": lambda state: with_kl(state, reference, tree)[0],
        "optimizer": optimizer_alone(optimizer, layout),
    }


def optimizer_alone(optimizer: optax.GradientTransformation, layout: TrainState) -> Step:
    """What every update pays however few tokens it has; the parameters stand in as gradients."""

    @partial(jax.jit, donate_argnums=0, out_shardings=layout)
    def step(state: TrainState) -> TrainState:
        return apply_gradients(state, state.params, optimizer)

    return step


def row(
    point: Point, cfg: ModelConfig, works: Mapping[str, Work], seconds: Mapping[str, float]
) -> Row:
    """Ratios of one point, and the factors that make them up."""
    tree, flat = works["tree"], works["flat"]
    speedup, bare = seconds["flat"] / seconds["tree"], seconds.get("trajectory")
    token_ratio = flat.tokens / tree.tokens
    factor_work, rate, optimizer = factors("flat", "tree", cfg, works, seconds)
    sft_work, sft_rate, sft_optimizer = factors("tree", "sft", cfg, works, seconds)
    return {
        "history": point.history,
        "action": point.action,
        "samples": point.samples,
        "pivots": point.pivots,
        "layers": cfg.layers,
        "tokens_flat": flat.tokens,
        "tokens_tree": tree.tokens,
        "token_ratio": token_ratio,
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "speedup": speedup,
        "speedup_share": speedup / token_ratio,
        "sft_ratio": seconds["tree"] / seconds["sft"],
        "sft_work": sft_work,
        "sft_rate": sft_rate,
        "sft_optimizer": sft_optimizer,
        "trajectory_ratio": bare and seconds["tree"] / bare,
        "work": factor_work,
        "rate": rate,
        "optimizer": optimizer,
        "pairs_flat": flat.pairs,
        "pairs_tree": tree.pairs,
        "padding_flat": flat.padding,
        "padding_tree": tree.padding,
        "teraflops_flat": computed("flat", cfg, flat) / 1e12,
        "teraflops_tree": computed("tree", cfg, tree) / 1e12,
        **{f"model_teraflops_{side}": flops.model(cfg, own) / 1e12 for side, own in works.items()},
    }


def factors(
    slow: str, fast: str, cfg: ModelConfig, works: Mapping[str, Work], seconds: Mapping[str, float]
) -> tuple[float, float, float]:
    """What time(slow) / time(fast) is beyond the ratio of tokens, as three factors.

    FLOPs per token (attention, and the head for scored tokens only), FLOPs per second outside the
    optimiser, and the share of the update that is not the optimiser.
    """
    counted = {name: computed(name, cfg, works[name]) for name in (slow, fast)}
    per_token = {name: counted[name] / works[name].tokens for name in counted}
    compute = {name: seconds[name] - seconds["optimizer"] for name in counted}
    per_second = {name: counted[name] / compute[name] for name in counted}
    share = {name: compute[name] / seconds[name] for name in counted}
    return (
        per_token[slow] / per_token[fast],
        per_second[fast] / per_second[slow],
        share[fast] / share[slow],
    )


def computed(side: str, cfg: ModelConfig, own: Work) -> float:
    """The FLOPs of a side's update."""
    return flops.update(cfg, own, flops.SUPERVISED_HEAD if side == "sft" else flops.POLICY_HEAD)


def rows(
    points: Sequence[Point], cfg: ModelConfig, rounds: int, wanted: Collection[str] = SIDES
) -> Iterator[Row]:
    """Measures point after point; one training state serves all sides."""
    optimizer = make_optimizer(OptimizerSettings(), 1)
    layout = state_shardings(optimizer, cfg, one_device())
    params = jax.jit(init, static_argnums=1, out_shardings=layout.params)(jax.random.key(0), cfg)
    reference = jax.tree.map(jnp.copy, params)
    state = new_state(params, optimizer, layout)
    for point in points:
        own = batches(point, cfg.vocab)
        sides = steps(own, point.samples, cfg, optimizer, layout, reference)
        seconds, state = medians({name: sides[name] for name in wanted}, state, rounds)
        yield row(point, cfg, own.works, seconds)


def main() -> None:
    options = parser("update", __doc__)
    options.add_argument("--layers", type=int, help="keep only so many of the 30 layers")
    given = options.parse_args()
    layers = given.layers or (QUICK_LAYERS if given.quick else SMOLLM2_135M.layers)
    cfg = dataclasses.replace(SMOLLM2_135M, layers=layers)
    points, sides, rounds = (QUICK, QUICK_SIDES, 1) if given.quick else (GRID, SIDES, 3)
    print(f"{cfg.name} shapes, {layers} of {SMOLLM2_135M.layers} layers", file=sys.stderr)
    report("update", TABLES, rows(points, cfg, given.rounds or rounds, sides), given.json)


if __name__ == "__main__":
    run(main)
