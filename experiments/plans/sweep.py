"""Which mesh, remat policy and micro-batch an update runs best with, by compiling them."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.reports.markdown import table
from experiments.settings import Settings
from pivotrl_jax.models import ModelConfig
from pivotrl_jax.parallel import MeshSettings
from pivotrl_jax.training.memory import GIB

# Flags of the command that are not a trial's.
OWN = ("--sweep", "--json", "--steps", "--rows_per_device")


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is tried: a mesh, a remat policy, and rows per device (None: what a run takes)."""

    mesh: MeshSettings
    remat: str
    rows: int | None = None

    def flags(self) -> list[str]:
        sizes = dataclasses.asdict(self.mesh).items()
        rows = [] if self.rows is None else [f"--rows_per_device={self.rows}"]
        return [*(f"--config.mesh.{axis}={size}" for axis, size in sizes),
                f"--config.train.remat={self.remat}", *rows]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it; `reason` says why a trial has no figures or does not fit."""

    trial: Trial
    rows: int = 0
    needed: float = 0.0  # bytes of a device
    seconds: float = 0.0
    utilisation: float = 0.0
    reason: str = ""


# Devices that share a row send each other its queries, those that share experts their tokens: the
# more of them, the more of both.
MOST = 8


def meshes(cfg: ModelConfig, devices: int, rows: int) -> list[MeshSettings]:
    """Shapes that leave as few devices without a row as can be: `tensor` divides the heads of keys
    and values, `expert` the experts, and `context` rows where there are more devices than rows."""
    experts = cfg.experts.number if cfg.experts else 1
    found = []
    for tensor in divisors(cfg.kv_heads):
        left = devices // tensor
        context = max((n for n in (2, 4, MOST) if left % n == 0 and n * rows <= left), default=1)
        for expert in (n for n in divisors(experts) if n <= MOST):
            fsdp, rest = divmod(devices, tensor * context * expert)
            if not rest:
                found.append(MeshSettings(1, fsdp, tensor, expert, context))
    most = max(rows, min(mesh.fsdp * mesh.expert for mesh in found))
    return [mesh for mesh in found if mesh.fsdp * mesh.expert <= most]


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def search(
    shapes: Sequence[MeshSettings], settings: Settings, run: Callable[[Trial], Outcome]
) -> Iterator[Outcome]:
    """All meshes first, then at the best one the other remat policy and twice, four times ... the
    rows per device."""
    remat = settings.train.remat
    found = []
    for shape in shapes:
        found.append(run(Trial(shape, remat)))
        yield found[-1]
    first = best(found)
    if first is None:
        return
    own = dataclasses.replace(first.trial, remat="dots" if remat == "full" else "full")
    yield run(own)
    shards = first.trial.mesh.fsdp * first.trial.mesh.expert * first.trial.mesh.data
    size = 2 * first.rows
    while size * shards <= settings.train.rows:
        yield run(dataclasses.replace(first.trial, rows=size))
        size *= 2


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Of those that fit, the one that uses the chips best."""
    fitting = [outcome for outcome in outcomes if not outcome.reason]
    return max(fitting, key=lambda outcome: outcome.utilisation, default=None)


def in_child(arguments: Sequence[str], trial: Trial) -> Outcome:
    """Compiles the update of one trial in a process of its own: libtpu aborts on some programs."""
    kept = without(OWN, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "plan.json"
        command = [sys.executable, "-m", "experiments.compile", *kept, *trial.flags()]
        done = subprocess.run(
            [*command, "--steps=update", f"--json={path}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not path.exists():
            return Outcome(trial, reason=(done.stderr.strip().splitlines() or ["no output"])[-1])
        return outcome(trial, json.loads(path.read_text(encoding="utf-8")))


def without(names: tuple[str, ...], arguments: Sequence[str]) -> list[str]:
    """The arguments but for these flags, whose values stand behind "=" or in the next argument."""
    kept, left = [], iter(arguments)
    for argument in left:
        if not argument.startswith(names):
            kept.append(argument)
        elif "=" not in argument and argument != "--sweep":
            next(left, None)
    return kept


def outcome(trial: Trial, plan: dict[str, Any]) -> Outcome:
    """From the file that `experiments.compile --json` writes."""
    (step,) = plan["steps"]
    if step["memory"] is None:
        return Outcome(trial, step["rows"], reason="refused by the compiler")
    needed = sum(step["memory"].values())
    lacks = step["missing"] / GIB
    return Outcome(
        trial, step["rows"], needed, step["seconds"], step["utilisation"],
        f"lacks {lacks:.2f} GiB" if lacks else "",
    )  # fmt: skip


def report(outcomes: Sequence[Outcome]) -> str:
    """A table of all, and the best in words."""
    head = ["fsdp", "expert", "context", "tensor", "remat", "rows", "GiB per device", "seconds",
            "utilisation", ""]  # fmt: skip
    rows = [
        [x.trial.mesh.fsdp, x.trial.mesh.expert, x.trial.mesh.context, x.trial.mesh.tensor,
         x.trial.remat, x.rows or "–",
         f"{x.needed / GIB:.2f}" if x.needed else "–", f"{x.seconds:.2f}" if x.seconds else "–",
         f"{x.utilisation:.1%}" if x.utilisation else "–", x.reason]
        for x in outcomes
    ]  # fmt: skip
    first = best(outcomes)
    if first is None:
        return f"{table(head, rows)}\n\nNothing fits: take a larger slice or shorter trunks."
    flags = " ".join(flag for flag in first.trial.flags() if flag.startswith("--config"))
    return f"{table(head, rows)}\n\nBest: `{flags}`, {first.utilisation:.1%} by estimate."
