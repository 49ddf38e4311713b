"""Does a run fit a TPU slice, and what would its steps cost? Compiled here, without a TPU.

    python -m experiments.compile --config=experiments/swe.py:pod --topology=v5p:4x4x4
    python -m experiments.compile --config=experiments/swe.py:pod --topology=v6e:16x16 \\
        --config.mesh.expert=4 --json=plan.json
    python -m experiments.compile --config=experiments/swe.py:pod --topology=v5p:4x4x4 --sweep

libtpu compiles the very steps that a run takes on that slice: prefill, a chunk of decoding, scoring
and the update. The model's architecture is looked up by its name; weights and data are not read.
Every trunk is as long as `text.trunk_tokens` allows and every sample has `--action_tokens` of its
own. Ends with status 1 when a step does not fit and says which, by how much and what to turn.

Needs `pip install libtpu`. The settings of `--sweep` are compiled one after the other, each by a
process of its own.
"""

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from experiments.artifacts import write_json
from experiments.config import from_config
from experiments.context import as_json
from experiments.plans.chips import Chip, chip_of, count_chips, devices
from experiments.plans.plan import NAMES, Measured, measure
from experiments.plans.steps import Plan
from experiments.plans.sweep import best, in_child, meshes, report, search
from experiments.plans.table import tables
from experiments.run import CONFIG, XLA_FLAGS, friendly
from experiments.settings import Settings
from pivotrl_jax.errors import UserError
from pivotrl_jax.models.presets import published
from pivotrl_jax.parallel import make_mesh, set_flags

TOPOLOGY = flags.DEFINE_string("topology", "", "TPU slice, such as v5p:4x4x4 or 7x:4x4x4.")
ACTION = flags.DEFINE_integer("action_tokens", 1024, "Tokens of every sample.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "Where all figures go.")
STEPS = flags.DEFINE_multi_enum("steps", None, NAMES, "This step only; may be given again.")
ROWS = flags.DEFINE_integer(
    "rows_per_device", None, "Rows of a micro-batch; by default as many as a run takes."
)
SWEEP = flags.DEFINE_bool("sweep", False, "Try meshes, remat and rows per device of an update.")


def on_cpu() -> None:
    """libtpu compiles; nothing is to look for a TPU, which another process may hold."""
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # Whatever they are: libtpu warns where it has to guess.
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    os.environ.pop("JAX_PLATFORMS", None)
    jax.config.update("jax_platforms", "cpu")


def plan_of(settings: Settings, topology: str, action: int) -> Plan:
    """Raises UserError for a model, mesh or slice that does not exist."""
    cfg = settings.model.configured(published(settings.model.name, settings.model.dtype))
    if settings.lora.rank:
        raise UserError(
            "plans are of updates that train all parameters, which take more memory than adapters; "
            "set config.lora.rank=0"
        )
    if settings.train.replay_routes:
        raise UserError(
            "plans have no room for the routes of replayed experts; set "
            "config.train.replay_routes=False"
        )
    mesh = make_mesh(settings.mesh, devices(topology))
    settings.require_whole_places(mesh.shape["context"])
    longest = max(domain.text.trunk_tokens for domain in settings.domains.values())
    if action >= longest:
        raise UserError(
            f"--action_tokens={action} leaves no history in a trunk of {longest}; lower it, or "
            "raise config.text.trunk_tokens"
        )
    return Plan(settings, cfg, mesh, longest - action, action)


def described(plan: Plan, topology: str) -> str:
    shape = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.shape.items() if size > 1)
    return (
        f"**{plan.cfg.name} on {topology}**: {count_chips(topology)} chips, mesh {shape or '1'}; "
        f"{plan.settings.train.rows} trunks of {plan.history:,} tokens, "
        f"{plan.settings.train.samples} samples of {plan.action:,} at each of "
        f"{plan.settings.train.pivots_per_row} pivots"
    )


def figures(plan: Plan, topology: str, steps: list[Measured], chip: Chip) -> dict[str, Any]:
    """All there is, for a file."""
    chips = count_chips(topology)
    return {
        "topology": topology,
        "chip": dataclasses.asdict(chip),
        "chips": chips,
        "mesh": dict(plan.mesh.shape),
        "model": plan.cfg.name,
        "history": plan.history,
        "action": plan.action,
        "remat": plan.settings.train.remat,
        "config": as_json(plan.settings),
        "steps": [
            dataclasses.asdict(step)
            | {"seconds": step.work and step.work.seconds,
               "utilisation": step.utilisation(chip, chips)}
            for step in steps
        ],
    }  # fmt: skip


def sweep(settings: Settings) -> None:
    """Prints a line a trial while it runs, then the table."""
    plan = plan_of(settings, TOPOLOGY.value, ACTION.value)
    shapes = meshes(plan.cfg, plan.mesh.size, settings.train.rows)
    found = []
    for outcome in search(shapes, settings, partial(in_child, sys.argv[1:])):
        found.append(outcome)
        said = outcome.reason or f"{outcome.utilisation:.1%}"
        print(f"{' '.join(outcome.trial.flags())}: {said}", file=sys.stderr, flush=True)
    print(report(found))
    if JSON.value:
        write_json(Path(JSON.value), [as_json(outcome) for outcome in found])
    if best(found) is None:
        raise UserError(f"no mesh of {TOPOLOGY.value} fits this run")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; options are --NAME=VALUE")
    if not TOPOLOGY.value:
        raise UserError("--topology is missing; name a TPU slice, such as v5p:4x4x4")
    settings, chip = from_config(Settings, CONFIG.value), chip_of(TOPOLOGY.value)
    if XLA_FLAGS.value:
        # Those of a run on TPUs.
        set_flags(os.environ)
    if SWEEP.value:
        sweep(settings)
        return
    plan = plan_of(settings, TOPOLOGY.value, ACTION.value)
    print(described(plan, TOPOLOGY.value), flush=True)
    steps = []
    for step in measure(plan, chip, STEPS.value or NAMES, ROWS.value):
        steps.append(step)
        print(f"{step.name} is compiled", file=sys.stderr, flush=True)
        if JSON.value:
            write_json(Path(JSON.value), figures(plan, TOPOLOGY.value, steps, chip))
    print(f"\n{tables(steps, chip, count_chips(TOPOLOGY.value), settings.train.steps)}")
    failures = [failure for step in steps if (failure := step.failure())]
    if failures:
        raise UserError("; ".join(failures))


if __name__ == "__main__":
    on_cpu()
    friendly(main)
