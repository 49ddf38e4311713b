"""`re.search` as a yes or no, in bounded time.

A tool's author may write a pattern that takes `re` exponential time on a model's text. Whether
there is a match at all does not depend on the order in which the alternatives are tried, so here
all positions that a part of the pattern can reach are followed at once: no position twice.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from pivotrl_jax.errors import UserError

_MAX_STEPS = 2_000_000  # characters looked at, about a second
_MAX_BACKTRACKED = 20  # characters of a text that `re` itself may search
_KEPT = 256

Positions = set[int]
# The positions that a part of a pattern reaches in a text from any of some others.
Reach = Callable[[str, Positions, Iterator[int]], Positions]

_CHARACTERS = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN,
               _constants.AT)  # fmt: skip
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_LOOKS = (_constants.ASSERT, _constants.ASSERT_NOT)


class _NotRegular(Exception):
    """A back-reference, or anything else for which the way to a position matters."""


class _TooLong(Exception):
    """The search takes more than `_MAX_STEPS`."""


def found(pattern: str, text: str) -> bool:
    """`re.search(pattern, text) is not None`. Raises UserError where that would take too long."""
    try:
        reach = _compiled(pattern)
    except _NotRegular:
        if len(text) <= _MAX_BACKTRACKED:
            return re.search(pattern, text) is not None
        raise UserError(_too_long(pattern)) from None
    try:
        return bool(reach(text, set(range(len(text) + 1)), iter(range(_MAX_STEPS))))
    except _TooLong:
        raise UserError(_too_long(pattern)) from None


def _too_long(pattern: str) -> str:
    return f"a tool's pattern {pattern[:80]!r} takes too long on a text: write a simpler one"


@functools.lru_cache(_KEPT)
def _compiled(pattern: str) -> Reach:
    parsed = _parser.parse(pattern)
    return _sequence(parsed, parsed.state, re.compile(pattern).flags)


def _sequence(nodes: Iterable[tuple[Any, Any]], state: Any, flags: int) -> Reach:
    parts = [_part(operation, argument, state, flags) for operation, argument in nodes]

    def reach(text: str, starts: Positions, steps: Iterator[int]) -> Positions:
        for part in parts:
            starts = part(text, starts, steps) if starts else starts
        return starts

    return reach


def _part(operation: Any, argument: Any, state: Any, flags: int) -> Reach:
    if operation in _CHARACTERS:
        return _character(operation, argument, state, flags)
    if operation in _REPEATS:
        least, most, item = argument
        return _repeated(_sequence(item, state, flags), least, most)
    if operation is _constants.BRANCH:
        return _either([_sequence(branch, state, flags) for branch in argument[1]])
    if operation is _constants.SUBPATTERN and not argument[2]:
        return _sequence(argument[3], state, flags | argument[1])
    if operation in _LOOKS:
        direction, item = argument
        back = item.getwidth()[0] if direction < 0 else None
        return _looked(_sequence(item, state, flags), back, operation is _constants.ASSERT)
    raise _NotRegular


def _character(operation: Any, argument: Any, state: Any, flags: int) -> Reach:
    """One character, or a place between two; `re` itself knows the classes and the flags."""
    one = _compiler.compile(_parser.SubPattern(state, [(operation, argument)]), flags)

    def reach(text: str, starts: Positions, steps: Iterator[int]) -> Positions:
        reached = set()
        for start in starts:
            if next(steps, None) is None:
                raise _TooLong
            if match := one.match(text, start):
                reached.add(match.end())
        return reached

    return reach


def _repeated(item: Reach, least: int, most: int) -> Reach:
    def reach(text: str, starts: Positions, steps: Iterator[int]) -> Positions:
        count = 0
        while count < least and starts:
            starts, count = item(text, starts, steps), count + 1
            if next(steps, None) is None:
                raise _TooLong
        reached, fresh = set(starts), starts
        while count < most and fresh:
            fresh, count = item(text, fresh, steps) - reached, count + 1
            reached |= fresh
        return reached

    return reach


def _either(branches: list[Reach]) -> Reach:
    def reach(text: str, starts: Positions, steps: Iterator[int]) -> Positions:
        return set().union(*(branch(text, starts, steps) for branch in branches))

    return reach


def _looked(item: Reach, back: int | None, wanted: bool) -> Reach:
    """Around a position: ahead of it, or `back` characters before it."""

    def holds(text: str, at: int, steps: Iterator[int]) -> bool:
        if back is None:
            return bool(item(text, {at}, steps))
        return at >= back and at in item(text, {at - back}, steps)

    def reach(text: str, starts: Positions, steps: Iterator[int]) -> Positions:
        return {start for start in starts if holds(text, start, steps) == wanted}

    return reach
