"""The normal form of a whole shell text: pipelines of invocations."""

import dataclasses
import posixpath
import re
from collections.abc import Sequence

from pivotrl_jax.verifiers.commands import programs, shell
from pivotrl_jax.verifiers.commands.invocation import LAST, Invocation, Place, invocation

_ERRORS_TO_SCREEN = "2>&first 1"
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Invocations joined by `|`, and the operator that follows."""

    stages: tuple[Invocation, ...]
    joint: str

    def __str__(self) -> str:
        return f"{' | '.join(map(str, self.stages))} {self.joint}".strip()

    @property
    def decisive(self) -> tuple[Invocation, ...]:
        """The first stage and those later ones that do more than show its output."""
        later = (
            s for s in self.stages[1:] if s.program not in programs.VIEWERS or "xargs" in s.context
        )
        return (*self.stages[:1], *later)


def normalise(text: str, root: str) -> tuple[Pipeline, ...]:
    """The normal form of a shell text that starts in the directory `root`. Never raises."""
    parsed = shell.parse(text)
    result = []
    for i, (pipeline, directory) in enumerate(
        zip(parsed, _directories(parsed, root), strict=False)
    ):
        last = i == len(parsed) - 1
        if not last and _entered(pipeline) is not None:
            continue
        place = Place(root, directory)
        stages = [stage for simple in pipeline.commands for stage in _stages(simple, place)]
        joint = "" if last and pipeline.joint != "&" else pipeline.joint
        result.append(Pipeline(_without_merged_errors(_merge(stages)), joint))
    return tuple(result)


def directory_after(text: str, root: str) -> str:
    """Where a shell that starts in `root` is after `text`, as far as plain `cd` commands say."""
    return _directories(shell.parse(text), root)[-1]


def _directories(parsed: Sequence[shell.Pipeline], root: str) -> list[str]:
    """The directory in which each pipeline runs, and the one after the last."""
    found, stack = [], [root]  # one per open bracket
    for pipeline in parsed:
        del stack[pipeline.depth + 1 :]
        stack += stack[-1:] * (pipeline.depth + 1 - len(stack))
        found.append(stack[-1])
        stack[-1] = posixpath.normpath(posixpath.join(stack[-1], _entered(pipeline) or ""))
    return [*found, stack[0]]


def _entered(pipeline: shell.Pipeline) -> str | None:
    """The directory of a plain `cd DIRECTORY`."""
    words = pipeline.commands[0].words
    plain = len(pipeline.commands) == 1 and len(words) == 2 and words[0] == "cd"
    return words[1] if plain else None


def _stages(simple: shell.Simple, place: Place) -> list[Invocation]:
    """One invocation, or two where `find -exec` runs a program on what it finds."""
    environment, words = _unwrap(list(simple.words))
    words, executed = _split_exec(words)
    first = _redirected(*_fed(words, simple, place), place)
    if first.program not in programs.PLACELESS and place.cwd != place.root:
        environment.append(f"cd {place.resolve('.')}")
    stages = [dataclasses.replace(first, context=tuple(sorted(environment)))]
    if executed:
        ran = invocation(executed, "", place)
        stages.append(dataclasses.replace(ran, context=("xargs",)))
    return stages


def _unwrap(words: list[str]) -> tuple[list[str], list[str]]:
    """(context, words without assignments, control words and wrappers such as timeout)."""
    context = []
    while len(words) > 1:
        name = posixpath.basename(words[0])
        if _ASSIGNMENT.match(words[0]):
            context.append(words[0])
            words = words[1:]
        elif words[0] in programs.KEYWORDS:
            context += words[:1] if words[0] in ("!", "until") else []
            words = words[1:]
        elif name in programs.WRAPPERS and (rest := _wrapped(words[1:], *programs.WRAPPERS[name])):
            # Running on the names that arrive is more than showing them.
            context += ["xargs"] if name == "xargs" else []
            context += [" ".join(words[: len(words) - len(rest)])] if name == "sudo" else []
            words = rest
        else:
            break
    return context, words


def _wrapped(words: list[str], valued: str, operands: int) -> list[str]:
    start = 0
    while start < len(words) and words[start].startswith("-"):
        start += 2 if len(words[start]) == 2 and words[start][1] in valued else 1
    return words[start + operands :]


def _split_exec(words: list[str]) -> tuple[list[str], list[str]]:
    """(find without -exec, the executed command without its braces)."""
    if words[:1] != ["find"] or "-exec" not in words:
        return words, []
    start = words.index("-exec")
    end = next((i for i in range(start, len(words)) if words[i] in (";", "+")), len(words))
    executed = [word for word in words[start + 1 : end] if word != "{}"]
    return words[:start] + words[end + 1 :], executed


def _fed(words: list[str], simple: shell.Simple, place: Place) -> tuple[Invocation, shell.Simple]:
    """`grep x < f` as `grep x f`, where the program would read its input from nowhere else."""
    command = invocation(words, simple.heredoc, place)
    files = [target for operator, target in simple.redirects if operator in ("<", "0<")]
    if len(files) != 1 or command.operands or command.program not in programs.FILTERS | {"cat"}:
        return command, simple
    others = tuple(pair for pair in simple.redirects if pair[0] not in ("<", "0<"))
    fed = invocation([*words, "--", files[0]], simple.heredoc, place)
    return fed, dataclasses.replace(simple, redirects=others)


def _redirected(command: Invocation, simple: shell.Simple, place: Place) -> Invocation:
    """Adds redirections; `cat > f << END` and `tee f << END` become the program "write"."""
    redirects: list[str] = []
    for operator, target in simple.redirects:
        both = operator == "&>"
        operator = {"1>": ">", "&>": ">", ">|": ">", "1>>": ">>"}.get(operator, operator)
        if operator in (">", ">>") and "2>& 1" in redirects:
            # The order counts: the errors still go where the output went before.
            redirects[redirects.index("2>& 1")] = _ERRORS_TO_SCREEN
        redirects.append(f"{operator} {place.resolve(target)}")
        redirects += ["2>& 1"] if both else []
    files = [r for r in redirects if r.startswith((">> ", "> ")) and r != "> /dev/null"]
    command = dataclasses.replace(command, redirects=tuple(sorted(redirects)))
    if command.program == "cat" and simple.heredoc and files and not command.operands:
        mode, _, target = files[-1].partition(" ")
        return Invocation("write", mode, (), (target,), simple.heredoc)
    if command.program == "tee" and simple.heredoc and len(command.operands) == 1:
        mode = ">>" if "-a" in command.options else ">"
        return Invocation("write", mode, (), command.operands, simple.heredoc)
    # Writing a file is not what the command does when it prints.
    mode = files[-1].split()[0] if files else ""
    return dataclasses.replace(command, subcommand=f"{command.subcommand} {mode}".strip())


def _merge(stages: list[Invocation]) -> tuple[Invocation, ...]:
    """`cat f | grep x` becomes `grep x f`, and lines of lines of a file become lines of it."""
    merged = stages[:1]
    for stage in stages[1:]:
        together = _together(merged[-1], stage)
        merged[-1:] = [merged[-1], stage] if together is None else [together]
    return tuple(merged)


def _together(before: Invocation, after: Invocation) -> Invocation | None:
    if before.program != "read" or after.operands or before.redirects or after.context:
        return None
    if after.program == "read" and len(before.operands) <= 1 and after.lines is not None:
        lines = _window(before.lines or (1, LAST), after.lines)
        options = before.options + after.options
        return dataclasses.replace(after, options=options, operands=before.operands, lines=lines)
    numbered = before.options == ("-n",) and after.program == "grep"
    if before.subcommand != "whole" or after.program not in programs.FILTERS:
        return None
    if before.options and not numbered:
        return None
    options = tuple(sorted({*after.options, *before.options}))
    return dataclasses.replace(after, options=options, operands=before.operands)


def _window(outer: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """The lines `inner` of the lines `outer`, both as in `Invocation.lines`."""
    start, end = outer
    if inner[0] > 0:
        return start + inner[0] - 1, min(end, start + inner[1] - 1)
    return inner if end == LAST else (max(start, end + inner[0] + 1), end)


def _without_merged_errors(stages: tuple[Invocation, ...]) -> tuple[Invocation, ...]:
    """Drops `2>&1` at the end of a pipeline: the observation holds both streams anyway."""
    last = stages[-1]
    kept = tuple(redirect for redirect in last.redirects if redirect != _ERRORS_TO_SCREEN)
    last = dataclasses.replace(last, redirects=kept)
    stages = (*stages[:-1], last)
    if any(redirect.startswith(">") for redirect in last.redirects):
        return stages
    kept = tuple(redirect for redirect in last.redirects if redirect != "2>& 1")
    return (*stages[:-1], dataclasses.replace(last, redirects=kept))
