"""Reads the text of a compiled program: computations, loops and how often they run, collectives."""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip
BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_START = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (?=\S)")
ENDLESS = 2**63 - 1
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`result` and `operands` are as printed; `rest` is what follows the operands."""

    name: str
    op: str
    result: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self, role: str) -> str | None:
        """The computation in the attribute `role`."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None

    @property
    def branches(self) -> list[str]:
        found = _BRANCHES.search(self.rest)
        if found:
            return [name.strip().lstrip("%") for name in found[1].split(",")]
        both = (self.called(f"{which}_computation") for which in ("true", "false"))
        return [name for name in both if name]

    @property
    def cycles(self) -> float:
        """What the compiler expects, where it says so.

        A product of groups of rows (the gradient of experts) is one masked product of all groups
        with all rows to it, of which it leaves out the blocks that lie outside of their group.
        That is not in its estimate, of which the share of the blocks inside is taken.
        """
        return 0 if self.endless else self._printed * (self.inside or 1)

    @property
    def endless(self) -> bool:
        """Whether the compiler's estimate is the largest number there is, and so none at all."""
        return self._printed == ENDLESS

    @property
    def _printed(self) -> int:
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else 0

    @property
    def inside(self) -> float | None:
        """Of a masked product the share of its blocks that lie in their group, each of which begins
        and ends inside of one; None for anything else."""
        bounds = re.search(r'"iteration_bounds":\[[^\]]*"(\d+)"\]', self.rest)
        if '"iteration_skipper_mode"' not in self.rest or bounds is None:
            return None
        blocks, groups = int(bounds[1]), arrays(self.result)[0][0]
        return (blocks + groups - 1) / (blocks * groups)

    @property
    def source(self) -> str:
        """The path of named scopes that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name; `entry` is the one that runs."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Raises ValueError where there is no entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif computations and (start := _START.match(line)):
            found = _instruction(line, start)
            current[found.name] = found
    if not entry:
        raise ValueError("no ENTRY computation in this text")
    return Program(computations, entry)


def _instruction(line: str, start: re.Match) -> Instruction:
    at = start.end()
    # A tuple has spaces of its own.
    end = _closing(line, at) if line[at] == "(" else line.index(" ", at)
    open_at = line.index("(", end)
    close = _closing(line, open_at)
    operands = re.findall(r"%([\w.\-]+)", line[open_at:close])
    literal = [] if operands else [line[open_at + 1 : close - 1]]
    return Instruction(
        name=start[1],
        op=line[end:open_at].strip(),
        result=line[at:end],
        operands=tuple(operands or literal),
        rest=line[close:],
        root=line.lstrip().startswith("ROOT "),
    )


def _closing(line: str, at: int) -> int:
    """The place behind the bracket that closes the one at `at`."""
    depth = 0
    for place in range(at, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced brackets in {line[:80]!r}")


def size(printed: str) -> int:
    """Bytes of the arrays of a printed shape, without padding."""
    found = _SHAPE.findall(printed)
    return sum(math.ceil(math.prod(dimensions(dims)) * _width(kind)) for kind, dims in found)


def dimensions(printed: str) -> list[int]:
    return [int(d.lstrip("<=")) for d in printed.split(",") if d]


def arrays(printed: str) -> list[list[int]]:
    """The dimensions of every array of a printed shape."""
    return [dimensions(dims) for _, dims in _SHAPE.findall(printed)]


def _width(kind: str) -> float:
    bits = re.search(r"\d+", kind)
    return BYTES[kind] if kind in BYTES else int(bits[0]) / 8 if bits else 0


@dataclasses.dataclass(frozen=True)
class Trips:
    """How often a loop runs: `count` times, at most so if not `exact`; None: not known."""

    count: int | None
    exact: bool = True


def trips(program: Program, loop: Instruction) -> Trips:
    """From what the compiler says, or from a condition "counter < constant".

    A condition that also asks for something else may end the loop earlier.
    """
    known = re.search(r'"?known_trip_count"?:\{"n":"(\d+)"\}', loop.rest)
    if known:
        return Trips(int(known[1]))
    condition = program.computations[loop.called("condition") or ""]
    bounds = list(_bounds(program, condition))
    if len(bounds) != 1:
        return Trips(None)
    bound, is_root = bounds[0]
    return Trips(bound, is_root)


def _bounds(program: Program, own: dict[str, Instruction]) -> Iterator[tuple[int, bool]]:
    """Constants that a number is compared with, and whether that is all that is asked."""
    for instruction in own.values():
        if instruction.op == "compare" and "direction=LT" in instruction.rest:
            right = own.get(instruction.operands[-1])
            if right is not None and right.op == "constant" and right.operands[0].isdigit():
                yield int(right.operands[0]), instruction.root
        elif instruction.op in ("fusion", "call"):
            inner = program.computations[_CALLED.search(instruction.rest)[1]]  # type: ignore[index]
            constants = [own[name] for name in instruction.operands if name in own]
            values = [x.operands[0] for x in constants if x.op == "constant"]
            compares = [x for x in inner.values() if x.op == "compare"]
            if len(compares) == 1 and "direction=LT" in compares[0].rest:
                yield from ((int(v), instruction.root) for v in values if v.isdigit())
                yield from _bounds(program, inner)


@dataclasses.dataclass(frozen=True)
class Executed:
    """An instruction and how often it runs in one step."""

    instruction: Instruction
    times: int
    exact: bool


def executed(program: Program) -> Iterator[Executed]:
    """Every instruction that runs by itself, those of loops with the product of their trips.

    Of the branches of a conditional the one with most work counts. A loop of unknown length counts
    once, and neither it nor what is inside is `exact`.
    """
    yield from _walk(program, program.entry, 1, True)


def _walk(program: Program, name: str, times: int, exact: bool) -> Iterator[Executed]:
    for instruction in program.computations[name].values():
        yield Executed(instruction, times, exact)
        if instruction.op == "while":
            found = trips(program, instruction)
            count = 1 if found.count is None else found.count
            sure = exact and found.exact and found.count is not None
            yield from _walk(program, instruction.called("body") or "", times * count, sure)
        elif instruction.op == "conditional":
            ways = [list(_walk(program, way, times, exact)) for way in instruction.branches]
            yield from max(ways, key=_work)
        elif instruction.op in ("call", "call-start"):  # the latter on a SparseCore
            yield from _walk(program, instruction.called("to_apply") or "", times, exact)


def _work(way: list[Executed]) -> tuple[float, int]:
    """To compare branches by: cycles, then bytes written."""
    return (
        sum(x.times * x.instruction.cycles for x in way),
        sum(x.times * size(x.instruction.result) for x in way),
    )


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one device receives, in bytes, each time."""

    kind: str
    bytes: float
    devices: int


def collective(program: Program, instruction: Instruction) -> Collective | None:
    """None for anything else.

    A ring or torus passes to every device, of n that take part: in an all-gather the n - 1 parts of
    the result that it lacks, in a reduce-scatter as many of its operand's size over n, in an
    all-reduce both, in an all-to-all what comes from others, in a permute all of it. On TPU a
    reduce-scatter is a fusion of an all-reduce and a slice.
    """
    inner = _inside(program, instruction)
    if inner is None:
        return None
    kind = inner.op.removesuffix("-start")
    parts = group_size(inner.rest)
    scattered = inner is not instruction and kind == "all-reduce"
    whole = size(inner.result)
    if inner.op.endswith("-start") and inner.op != "all-reduce-start":
        # (operand, result, ...): the largest is what moves.
        whole = max(size(part) for part in re.findall(r"\w+\[[^\]]*\]", inner.result))
    share = (parts - 1) / parts
    if kind == "reduce-scatter":
        return Collective(kind, whole * (parts - 1), parts)
    if scattered:
        return Collective("reduce-scatter", whole * share, parts)
    if kind == "collective-permute":
        return Collective(kind, whole, parts)
    return Collective(kind, whole * share * (2 if kind == "all-reduce" else 1), parts)


def _inside(program: Program, instruction: Instruction) -> Instruction | None:
    """The collective that an instruction is, or that the fusion or asynchronous start has in it."""
    if instruction.op.removesuffix("-start") in COLLECTIVES:
        return instruction
    if instruction.op not in ("fusion", "async-start"):
        return None
    own = program.computations.get(instruction.called("calls") or "", {}).values()
    return next((found for x in own if (found := _inside(program, x))), None)


def group_size(rest: str) -> int:
    """Devices that take part together, from any of the three ways to print replica groups."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([^}]*)\}", rest)
    return len(listed[1].split(",")) if listed else 2
