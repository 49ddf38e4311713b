"""Functional equivalence of shell commands, judged from their text alone."""

import dataclasses
from collections.abc import Iterator, Sequence

from rapidfuzz import fuzz

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers.commands.calls import interchangeable, shell_text
from pivotrl_jax.verifiers.commands.invocation import Invocation
from pivotrl_jax.verifiers.commands.normal import Pipeline, normalise
from pivotrl_jax.verifiers.texts import dice
from pivotrl_jax.verifiers.values import canonical
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_PARSED = 16_000  # characters; the longest of 4,661 expert commands has 5,937
_MAX_COMPARED = 2_000  # characters
COMPARED: tuple[str, ...] = (
    "program", "subcommand", "targets", "pattern", "range", "flags", "operators", "content",
    "exact", "similarity",
)  # fmt: skip
_CRITERIA: tuple[str, ...] = ("well_formed", "kind", "name", *COMPARED)


@dataclasses.dataclass(frozen=True)
class Command(Rules):
    """Compares one shell command with the expert's; nothing is executed.

    Criteria, each in [0, 1] and symmetric in the two commands:
      well_formed  the sample parsed as exactly one call
      kind         both calls carry a shell command, or neither does
      name         same tool
      program      same programs in the same order (viewers such as `| head` do not count)
      subcommand   same subcommands: `git diff`, `-m pytest`, a script, in-place, output to a file
      targets      F1 overlap of the operands
      pattern      similarity of search patterns, sed scripts, inline code and heredocs
      range        overlap of the line ranges that are read (intersection over union)
      flags        F1 overlap of what else the programs are given: options, numbers, environment,
                   sudo
      operators    the same connectives (&&, ||, ;, &, |) in the same order
      content      the same inline code, sed and awk scripts, heredocs and redirected text
      exact        same normal form
      similarity   Indel similarity of the normal forms' first 2,000 characters
    Where neither command has a target, pattern or range, that criterion is 1, but only if the
    programs agree: different programs have nothing in common by lacking the same thing.
    `argument` is the tool's argument with the command. Calls run a shell command if they have it
    and nothing else but a working directory, which counts as a `cd`, and a time limit, description
    or the like, which do not count. Two of them are compared as commands if the tools are one or
    both are known shells. Any other calls are compared by name and all arguments: "program" is the
    name, the criteria after it are the F1 overlap of the arguments. `root` is the directory in
    which commands start.
    """

    argument: str = "command"
    root: str = "/testbed"
    name = "command"
    criteria = _CRITERIA

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        if len(expert.calls) != 1:
            return Verdict({}, "", error=f"the expert makes {len(expert.calls)} calls, not one")
        wanted = shell_text(expert.calls[0], (self.argument,))
        expected = () if wanted is None else self._normal(wanted)
        if wanted is not None and not expected:
            return Verdict({}, "", error="the expert's command is empty")
        calls = sampled.action.calls
        problems = list(sampled.problems) or ([] if len(calls) == 1 else [f"{len(calls)} calls"])
        if problems:
            return self._scores({}, "; ".join(problems))
        given = shell_text(calls[0], (self.argument,))
        base = {
            "well_formed": 1.0,
            "kind": float((given is None) == (wanted is None)),
            "name": float(calls[0].name == expert.calls[0].name),
        }
        if base["kind"] == 0:
            return self._scores(base, f"not both run only the text of {self.argument!r}")
        if wanted is None or given is None:
            scores = _compare_arguments(expert.calls[0], calls[0])
        elif interchangeable(expert.calls[0], calls[0]):
            scores = compare(expected, self._normal(given))
            if scores and wanted[_MAX_PARSED:] != given[_MAX_PARSED:]:
                scores |= {"exact": 0.0, "content": 0.0}
        else:
            return self._scores(base, "another tool")
        if not scores:
            return self._scores(base, "no command")
        failed = [name for name, score in scores.items() if score < 1]
        return self._scores(base | scores, f"differs in {', '.join(failed)}" if failed else "equal")

    def _normal(self, text: str) -> tuple[Pipeline, ...]:
        return normalise(text[:_MAX_PARSED], self.root)


def _compare_arguments(expected: ToolCall, actual: ToolCall) -> dict[str, float]:
    """The criteria from "program" on, of two calls that are no shell commands."""
    sides = [
        {name: canonical(value) for name, value in call.arguments.items()}
        if isinstance(call.arguments, dict) else {"": canonical(call.arguments)}
        for call in (expected, actual)
    ]  # fmt: skip
    same_name = float(expected.name == actual.name)
    shared = same_name * dice(*(side.items() for side in sides))
    exact = same_name * float(sides[0] == sides[1])
    return dict.fromkeys(COMPARED, shared) | {"program": same_name, "exact": exact}


def compare(expected: Sequence[Pipeline], actual: Sequence[Pipeline]) -> dict[str, float]:
    """The criteria from "program" on, of two normal forms."""
    if not actual:
        return {}
    pair = (expected, actual)
    decisive = [[stage for pipeline in form for stage in pipeline.decisive] for form in pair]
    stages = [[stage for pipeline in form for stage in pipeline.stages] for form in pair]
    texts = ["\n".join(map(str, form)) for form in pair]
    same_programs = _equal([[stage.program for stage in side] for side in decisive])
    agreeing = {
        "subcommand": _equal([[stage.subcommand for stage in side] for side in decisive]),
        "targets": _overlap(*(_targets(side) for side in decisive)),
        "pattern": _similarity(*("\n".join(s.pattern for s in side if s.pattern)
                                 for side in stages)),
        "range": _common_lines(*decisive),
        "flags": dice(*(_flags(side) for side in decisive)),
        "operators": _equal([list(_operators(form)) for form in pair]),
        "content": _equal([list(_content(side)) for side in stages]),
    }  # fmt: skip
    return {
        "program": same_programs,
        **{name: score * same_programs for name, score in agreeing.items()},
        "exact": _equal(list(pair)),
        "similarity": _similarity(*texts),
    }


def _equal(pair: list) -> float:
    return float(pair[0] == pair[1])


def _flags(stages: list[Invocation]) -> Iterator[str]:
    """What `_targets` leaves out: options, numbers, and what comes before the program."""
    for stage in stages:
        yield from (*stage.context, *stage.options)
        yield from (o for o in stage.operands if o.startswith("-") or o.isdigit())


def _operators(form: Sequence[Pipeline]) -> Iterator[str]:
    for pipeline in form:
        yield from ("|" for _ in pipeline.stages[1:])
        yield pipeline.joint


def _content(stages: list[Invocation]) -> Iterator[tuple[str, ...]]:
    """What is run as a program of its own, or written."""
    for stage in stages:
        if stage.pattern and stage.program not in ("grep", "find"):
            yield (stage.pattern,)
        if stage.program in ("echo", "printf"):
            yield stage.operands
        yield from ((r,) for r in stage.redirects if r.startswith("<<<"))


def _targets(stages: list[Invocation]) -> set[str]:
    """Operands and redirection targets, without options, numbers and what `echo` prints."""
    operands = {o for s in stages if s.program != "echo" for o in s.operands}
    files = {r.split(" ", 1)[1] for s in stages for r in s.redirects}
    targets = operands | files - {"1", "2", "/dev/null"}
    return {t for t in targets if not t.startswith("-") and not t.isdigit()}


def _overlap(expected: set[str], actual: set[str]) -> float:
    total = len(expected) + len(actual)
    return 2 * len(expected & actual) / total if total else 1.0


def _similarity(expected: str, actual: str) -> float:
    """Indel similarity in [0, 1]; 1 for two empty texts."""
    return fuzz.ratio(expected[:_MAX_COMPARED], actual[:_MAX_COMPARED]) / 100


def _common_lines(expected: list[Invocation], actual: list[Invocation]) -> float:
    """The least overlap of corresponding line ranges."""
    ranges = [[stage.lines for stage in side if stage.lines] for side in (expected, actual)]
    if len(ranges[0]) != len(ranges[1]):
        return 0.0
    return min((shared_lines(a, b) for a, b in zip(*ranges, strict=True)), default=1.0)


def shared_lines(a: tuple[int, int], b: tuple[int, int]) -> float:
    common = min(a[1], b[1]) - max(a[0], b[0]) + 1
    union = max(a[1], b[1]) - min(a[0], b[0]) + 1
    return float(a == b) if union <= 0 else max(0.0, common / union)
