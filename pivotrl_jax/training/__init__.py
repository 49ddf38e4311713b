"""Training state, updates, batches, checkpoints and the step loop."""

from pivotrl_jax.training.ahead import OneAhead
from pivotrl_jax.training.batches import (
    Example,
    episode_batch,
    packed_batch,
    policy_batch,
    supervised_batch,
)
from pivotrl_jax.training.checkpoints import Checkpointer
from pivotrl_jax.training.data import Batches, index_batches, length_batches, mixed_batches
from pivotrl_jax.training.end_to_end import EndToEndSettings, Play, episode_step
from pivotrl_jax.training.goodput import Goodput
from pivotrl_jax.training.loop import Step, run_steps
from pivotrl_jax.training.metrics import MetricWriter
from pivotrl_jax.training.micro import in_micro_batches, micro_batches
from pivotrl_jax.training.online import OnlineBatches
from pivotrl_jax.training.optimizer import OptimizerSettings, learning_rates, make_optimizer
from pivotrl_jax.training.pivotrl import Observe, PivotStep, TrainSettings, require_experts
from pivotrl_jax.training.state import TrainState, abstract_state, new_state, state_shardings
from pivotrl_jax.training.tracing import Tracer, TraceSteps, parse_steps
from pivotrl_jax.training.update import (
    PolicyBatch,
    SupervisedBatch,
    policy_update,
    supervised_update,
    token_logprobs,
)
from pivotrl_jax.training.watch import SIGNALS, Abandoned, Stopped, Watch

__all__ = [
    "SIGNALS",
    "Abandoned",
    "Batches",
    "Checkpointer",
    "EndToEndSettings",
    "Example",
    "Goodput",
    "MetricWriter",
    "Observe",
    "OneAhead",
    "OnlineBatches",
    "OptimizerSettings",
    "PivotStep",
    "Play",
    "PolicyBatch",
    "Step",
    "Stopped",
    "SupervisedBatch",
    "TraceSteps",
    "Tracer",
    "TrainSettings",
    "TrainState",
    "Watch",
    "abstract_state",
    "episode_batch",
    "episode_step",
    "in_micro_batches",
    "index_batches",
    "learning_rates",
    "length_batches",
    "make_optimizer",
    "micro_batches",
    "mixed_batches",
    "new_state",
    "packed_batch",
    "parse_steps",
    "policy_batch",
    "policy_update",
    "require_experts",
    "run_steps",
    "state_shardings",
    "supervised_batch",
    "supervised_update",
    "token_logprobs",
]
