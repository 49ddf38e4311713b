"""What the compiler says of one program: memory, work, exchange between chips, time."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax

from experiments.plans.chips import Chip
from experiments.plans.hlo import Executed, Program, collective, executed, parse, trips
from experiments.plans.kernels import Call, call
from pivotrl_jax.training.memory import GIB, USABLE

# How many of the instructions that take most time are named.
SLOWEST = 8


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device. `outputs` leaves out what takes over an argument's place; `beside` is what
    else of the run lies there meanwhile."""

    arguments: int
    temporaries: int
    outputs: int
    beside: int

    @property
    def needed(self) -> int:
        return self.arguments + self.temporaries + self.outputs + self.beside


@dataclasses.dataclass(frozen=True)
class Exchange:
    """All collectives of one kind: bytes that one device receives."""

    kind: str
    count: int
    bytes: float
    exact: bool  # False where a loop inside runs an unknown number of times


@dataclasses.dataclass(frozen=True)
class Cost:
    """One instruction, or all that come from one line of the program."""

    name: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one device. `compiler` sums what the compiler expects of each instruction, `kernels` is
    that of Pallas kernels and `links` that of collectives at full bandwidth, in seconds."""

    compiler: float
    kernels: float
    links: float
    exchanges: Sequence[Exchange]
    slowest: Sequence[Cost]
    unknown_loops: Sequence[str]
    unknown_kernels: Sequence[str]
    endless: Sequence[str] = ()  # by operation and result; see `hlo.Instruction.endless`
    masked_products: int = 0  # times that one ran; see `hlo.Instruction.cycles`

    @property
    def seconds(self) -> float:
        """As if nothing ran at the same time as anything else."""
        return self.compiler + self.kernels + self.links


def memory(compiled: jax.stages.Compiled, resident: int) -> Memory:
    """`resident` bytes lie on a device in any case; some of them are the program's arguments."""
    found = compiled.memory_analysis()
    assert found is not None
    return Memory(
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        max(0, resident - found.argument_size_in_bytes),
    )


def missing(needed: float, chip: Chip) -> float:
    """Bytes by which `needed` ones exceed what a run may use of a device."""
    return max(0.0, needed - USABLE * chip.memory * GIB)


def refused(message: str) -> float | None:
    """Bytes that a program would need which the compiler refuses; None if it does not say."""
    found = re.search(r"Used ([\d.]+)([MG]) of|required for [^(]*\(([\d.]+)([MG])\)", message)
    if not found:
        return None
    number, unit = (x for x in found.groups() if x is not None)
    return float(number) * {"M": 2**20, "G": GIB}[unit]


def work(text: str, chip: Chip, seen: float) -> Work:
    """From a compiled program's text; `seen` as in `kernels.call`."""
    program = parse(text)
    runs = list(executed(program))
    calls = [(x, found) for x in runs if (found := call(x.instruction, seen))]
    exchanges = _exchanges(program, runs)
    return Work(
        compiler=sum(x.times * x.instruction.cycles for x in runs) / chip.clock,
        kernels=sum(x.times * one.seconds(chip) for x, one in calls),
        links=sum(x.bytes for x in exchanges) * chip.devices / chip.links,
        exchanges=exchanges,
        slowest=_slowest(runs, calls, chip),
        unknown_loops=[
            x.instruction.source
            for x in runs
            if x.instruction.op == "while" and trips(program, x.instruction).count is None
        ],
        endless=sorted(
            {f"{x.instruction.op} {x.instruction.result}" for x in runs if x.instruction.endless}
        ),
        masked_products=sum(x.times for x in runs if x.instruction.inside),
        unknown_kernels=sorted(
            {one.kernel for _, one in calls if not one.flops and "metadata" not in one.kernel}
        ),
    )


def _exchanges(program: Program, runs: Sequence[Executed]) -> list[Exchange]:
    found: dict[str, list[tuple[int, float, bool]]] = defaultdict(list)
    for x in runs:
        if (one := collective(program, x.instruction)) and one.devices > 1:
            found[one.kind].append((x.times, x.times * one.bytes, x.exact))
    return [
        Exchange(
            kind, sum(n for n, _, _ in own), sum(b for _, b, _ in own), all(e for *_, e in own)
        )
        for kind, own in sorted(found.items())
    ]


def _slowest(
    runs: Sequence[Executed], calls: Sequence[tuple[Executed, Call]], chip: Chip
) -> list[Cost]:
    """Instructions of one source together: the same line of the program, the same pass."""
    total: dict[str, float] = defaultdict(float)
    for x in runs:
        total[short(x.instruction.source)] += x.times * x.instruction.cycles / chip.clock
    for x, one in calls:
        total[one.kernel] += x.times * one.seconds(chip)
    ranked = sorted(total.items(), key=lambda pair: -pair[1])
    return [Cost(name, seconds) for name, seconds in ranked[:SLOWEST] if seconds]


def short(source: str) -> str:
    """A path of scopes without those that JAX adds: "backward ffn dot_general"."""
    again, back = "rematted" in source, "transpose(" in source
    plain = re.sub(r"\b(?:jit|jvp|transpose|vmap)\(|\)", "", source)
    added = {"while", "body", "cond", "closed_call", "checkpoint", "shard_map", "update", "", "jit"}
    parts = [p for p in plain.split("/") if p not in added and not p.startswith("branch_")]
    parts = [p for p in parts if p != "rematted_computation"]
    which = "again" if again else "backward" if back else "forward"
    return " ".join([which, *parts[-2:]]) if parts else "other"


def as_json(found: Any) -> dict[str, Any]:
    return dataclasses.asdict(found)
