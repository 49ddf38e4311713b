"""Equivalence of edits by the file that they produce; of views by place; of commands by form."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.parsing import tool_name
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers.commands.command import compare, shared_lines
from pivotrl_jax.verifiers.commands.normal import normalise
from pivotrl_jax.verifiers.files import (
    Shown,
    command_of,
    edits_of,
    is_familiar,
    known_files,
    only_command_of,
)
from pivotrl_jax.verifiers.matching import Scores, paired
from pivotrl_jax.verifiers.messages import compare_messages
from pivotrl_jax.verifiers.patches import Block, Edit, apply, blocks
from pivotrl_jax.verifiers.recipe import reward
from pivotrl_jax.verifiers.recipes import SAME_SEARCH
from pivotrl_jax.verifiers.schemas import parameters
from pivotrl_jax.verifiers.search import Search
from pivotrl_jax.verifiers.texts import dice, ratio
from pivotrl_jax.verifiers.tool_call import is_ordered, problems_of, unjudgeable
from pivotrl_jax.verifiers.values import members
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_COMMAND = 16_000  # characters
_NEARLY = 0.99  # the most that commands of different normal forms score
# Search and visit the web; "search" alone mostly searches files.
_WEB = frozenset(
    {"web_search", "websearch", "search_web", "fetch_web_page", "web_fetch", "webfetch"}
)
_CRITERIA: tuple[str, ...] = (
    "well_formed", "kind", "name", "target", "content", "similarity", "range", "command", "values",
    "facts", "question", "exact",
)  # fmt: skip


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A turn's calls by what they do. `edits` has them by path, in order; `steps` what is done."""

    edits: dict[str, tuple[Edit, ...]]
    views: tuple[Edit, ...]
    commands: tuple[str, ...]
    others: tuple[ToolCall, ...]
    steps: tuple[str, ...]

    @property
    def kinds(self) -> set[str]:
        fields = ("edits", "views", "commands", "others")
        return {name for name in fields if getattr(self, name)}


@dataclasses.dataclass(frozen=True)
class FileEdits(Rules):
    """Compares a turn's edits, views and commands with the expert's, or two messages.

    Nothing is executed. Criteria, each in [0, 1]; where both sides lack what one is about, it is 1:
      well_formed  the sample parsed without a problem and every call's arguments are an object
      kind         both edit, or view, or run commands, or call other tools (or several of these),
                   or are non-blank text without a call; where the fact "ordered" of the context is
                   true, step by step
      name         F1 overlap of the tools' names; writing a file by another tool is no other edit
      target       F1 overlap of the files that are edited and viewed
      content      share of the edited files whose content is the same afterwards, white space at
                   line ends aside. The content before is taken from the dialogue: a view, cat or
                   creation and the edits since; where it is unknown, from the longer of two
                   texts to be replaced if it has the other; else the lines removed and added
                   must be the same
      similarity   the least, over the edited files, of the likeness of the lines removed and of
                   the lines added; 0 for an edit that has no place in a known file; or the
                   message's (`compare_messages`)
      range        overlap of the viewed lines (intersection over union)
      command      of shell commands: 1 for the same normal form, else the least of the criteria
                   of `Command` from "program" on, "exact" aside, and less than 1
      values       share of other calls, paired one to one, with the same name and arguments under
                   the tool's schema (`canonical`); searches of the web and visits to a page are
                   the same as `Search` and its default recipe have it
      facts        of a message (`compare_messages`)
      question     of a message
      exact        all of these but "name" are 1
    `root` is the directory of relative paths. What a shell call has besides its command and working
    directory (a description, a time limit) is not compared if `Command` does not either; else the
    call counts as another tool's. Tools are known by their arguments if both sides use the same
    ones, else only by familiar names; a tool that is not among those declared does nothing.
    """

    root: str = "/testbed"
    name = "edit"
    criteria = _CRITERIA

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        if reason := unjudgeable(expert):
            return Verdict({}, "", error=reason)
        if problems := problems_of(sampled, expert):
            return self._scores({}, "; ".join(problems))
        if not expert.calls:
            return self._compare_messages(expert, sampled.action, context)
        names = [[call.name for call in each.calls] for each in (expert, sampled.action)]
        scores = {"well_formed": 1.0, "name": dice(*names)}
        if unknown := _undeclared(names[0], names[1], context):
            return self._scores(scores, f"no tool is called {min(unknown)[:80]!r}")
        one_set = set(names[0]) == set(names[1])
        expected, actual = (self._plan(each, one_set) for each in (expert, sampled.action))
        if expected.kinds != actual.kinds or (
            is_ordered(context) and expected.steps != actual.steps
        ):
            return self._scores(scores, "another kind of action than the expert's")
        scores |= {"kind": 1.0, "facts": 1.0, "question": 1.0}
        scores |= self._compare(expected, actual, context)
        failed = [name for name, score in scores.items() if score < 1]
        scores["exact"] = float(not set(failed) - {"name"})
        return self._scores(scores, f"differs in {', '.join(failed)}" if failed else "equal")

    def _compare_messages(self, expert: Action, sampled: Action, context: Context) -> Verdict:
        if sampled.calls or not sampled.text.strip():
            return self._scores({"well_formed": 1.0}, "no message, unlike the expert")
        scores = dict.fromkeys(_CRITERIA, 1.0)
        scores |= compare_messages(expert.text, sampled.text, context)
        failed = [name for name, score in scores.items() if score < 1]
        return self._scores(scores, f"differs in {', '.join(failed)}" if failed else "equal")

    def _plan(self, action: Action, same_tools: bool) -> Plan:
        """An unfamiliar tool does what its arguments look like only if both sides use it."""
        edits: dict[str, tuple[Edit, ...]] = {}
        views, commands, others, steps = [], [], [], []
        for call in action.calls:
            command = only_command_of(call)
            readable = same_tools or is_familiar(call.name)
            readable = readable and (command is not None or command_of(call) is None)
            found = edits_of(call, self.root) if readable else ()
            command = command if readable else None
            for edit in found:
                is_view = edit.action == "view"
                steps.append(f"{'view' if is_view else 'edit'} {edit.path}")
                if is_view:
                    views.append(edit)
                else:
                    edits[edit.path] = (*edits.get(edit.path, ()), edit)
            if not found:
                commands += [command] if command is not None else []
                others += [call] if command is None else []
                steps.append("call" if command is None else "command")
        return Plan(edits, tuple(views), tuple(commands), tuple(others), tuple(steps))

    def _compare(self, expected: Plan, actual: Plan, context: Context) -> Scores:
        known = known_files(context.history, {*expected.edits, *actual.edits}, self.root)
        ordered = is_ordered(context)
        same_call = functools.partial(_same_call, context=context)
        files = [[*plan.edits, *(view.path for view in plan.views)] for plan in (expected, actual)]
        changes = [
            compare_changes(
                expected.edits.get(path, ()), actual.edits.get(path, ()), known.get(path)
            )
            for path in {**expected.edits, **actual.edits}
        ]
        return {
            "target": dice(*files),
            "content": sum(same for same, _ in changes) / len(changes) if changes else 1.0,
            "similarity": min((alike for _, alike in changes), default=1.0),
            "range": _mean(expected.views, actual.views, _common_lines, ordered),
            "command": _mean(expected.commands, actual.commands, self._same_command, ordered),
            "values": _mean(expected.others, actual.others, same_call, ordered),
        }

    def _same_command(self, expected: str, actual: str) -> float:
        sides = [normalise(text[:_MAX_COMMAND], self.root) for text in (expected, actual)]
        scores = compare(*sides) if all(sides) else {"exact": float(expected == actual)}
        if expected[_MAX_COMMAND:] != actual[_MAX_COMMAND:]:
            return 0.0
        others = (score for name, score in scores.items() if name != "exact")
        return 1.0 if scores["exact"] else min(_NEARLY, *others, 1.0 * all(sides))


def _undeclared(expected: list[str], actual: list[str], context: Context) -> set[str]:
    """The sampled tools that neither the dialogue declares, where it does, nor the expert calls."""
    declared = {tool_name(tool) for tool in context.tools}
    return set(actual) - set(expected) - declared if declared else set()


def _mean(
    expected: Sequence[T], actual: Sequence[T], measure: Callable[[T, T], float], ordered: bool
) -> float:
    if not expected or not actual:
        return float(not expected and not actual)
    pairs = expected, actual
    found = paired(*pairs, lambda a, b: {"score": measure(a, b)}, ("score",), ordered)
    return found["score"]


def _common_lines(expected: Edit, actual: Edit) -> float:
    if expected.path != actual.path:
        return 0.0
    ranges = [(view.line or 1, view.last or 1) for view in (expected, actual)]
    return shared_lines(*ranges)


def _same_call(expected: ToolCall, actual: ToolCall, context: Context) -> float:
    if expected.name != actual.name:
        return 0.0
    if expected.name in _WEB:
        verdict = Search()(Action("", (expected,)), ParsedAction(Action("", (actual,))))
        return float(reward(SAME_SEARCH, verdict.criteria) == 1)
    schema = parameters(context.tools, expected.name)
    return float(members(expected.arguments, schema) == members(actual.arguments, schema))


def compare_changes(
    expected: Sequence[Edit], actual: Sequence[Edit], shown: Shown | None
) -> tuple[float, float]:
    """("content", "similarity") of the edits of one file, of which `shown` is known before."""
    if shown is None or _after(expected, shown) is None:
        shown = _excerpt(expected, actual)
    if shown is None:
        return _compare_unknown(expected, actual)
    texts = [_after(edits, shown) for edits in (expected, actual)]
    if texts[0] is None or texts[1] is None or not actual:
        return 0.0, 0.0
    found = [blocks(shown.text, text) for text in texts if text is not None]
    return float(not blocks(texts[0], texts[1])), _likeness(*found)


def _excerpt(expected: Sequence[Edit], actual: Sequence[Edit]) -> Shown | None:
    """What two replacements themselves show of the file: the longer text, if it has the other."""
    if [len(expected), len(actual)] != [1, 1] or any(e.every for e in (*expected, *actual)):
        return None
    short, long = sorted((expected[0].old, actual[0].old), key=len)
    return Shown(long) if short and long.count(short) == 1 else None


def _compare_unknown(expected: Sequence[Edit], actual: Sequence[Edit]) -> tuple[float, float]:
    found = [tuple(b for edit in edits for b in _own_blocks(edit)) for edits in (expected, actual)]
    # A line that is only added could be added anywhere.
    placed = all(removed for side in found for removed, _ in side)
    each = [[edit.every for edit in edits] for edits in (expected, actual)]
    same = found[0] == found[1] and placed and each[0] == each[1]
    return float(same or list(expected) == list(actual)), _likeness(*found)


def _after(edits: Sequence[Edit], shown: Shown) -> str | None:
    text: str | None = shown.text
    for edit in edits:
        text = None if text is None else apply(text, shown.first, edit)
    return text


def _own_blocks(edit: Edit) -> tuple[Block, ...]:
    """What an edit removes and adds as far as it says so itself; else where it adds."""
    if edit.action == "replace":
        return blocks(edit.old, edit.new)
    place = f"{edit.action} {edit.line or ''}"
    return (((place,), tuple(line.rstrip() for line in edit.new.strip("\n").split("\n"))),)


def _likeness(expected: Sequence[Block], actual: Sequence[Block]) -> float:
    if not expected or not actual:
        return float(not expected and not actual)
    texts = [["\n".join(line for block in side for line in block[i]) for i in (0, 1)]
             for side in (expected, actual)]  # fmt: skip
    return min(ratio(a, b) for a, b in zip(*texts, strict=True))
