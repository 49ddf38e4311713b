"""Which call of a turn a tool result answers."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from pivotrl_jax.trajectories.schema import Message

# A message with the source's ids: those of its calls, or the one that a result answers.
Named = tuple[Message, Sequence[Any]]


def in_call_order(entries: Iterable[Named]) -> list[Message]:
    """The messages, with results that stand side by side in the order of the calls they answer.

    A result whose id no call of the last calling turn has stays where it is, and answers the first
    call that no other one names.
    """
    messages: list[Message] = []
    turn = _Turn(())
    for are_results, together in itertools.groupby(entries, lambda entry: entry[0].role == "tool"):
        if are_results:
            messages += turn.ordered(list(together))
            continue
        for message, ids in together:
            messages.append(message)
            if message.calls:
                turn = _Turn(ids)
    return messages


def call_ids(message: Message, index: int) -> list[str]:
    """Names of the calls of a message by its place in the dialogue, unique within it."""
    return [f"call_{index}_{number}" for number in range(len(message.calls))]


def answered_calls(messages: Iterable[Message]) -> list[str | None]:
    """For each message, the name (of `call_ids`) of the call that it answers, if any."""
    found: list[str | None] = []
    ids: list[str] = []
    last = -1
    for index, message in enumerate(messages):
        if message.calls:
            ids, last = call_ids(message, index), -1
        call = last + 1 if message.answers is None else message.answers
        answered = message.role == "tool" and call < len(ids)
        last = call if answered else last
        found.append(ids[call] if answered else None)
    return found


class _Turn:
    """The calls of a turn, and which of them have no result yet."""

    def __init__(self, ids: Sequence[Any]) -> None:
        self._ids = ids
        self._free = list(range(len(ids)))
        self._last = -1

    def ordered(self, results: Sequence[Named]) -> list[Message]:
        """A run of results: those with a known id in the order of their calls."""
        claims = [self._claim(*ids) for _, ids in results]
        known = iter(sorted((call, i) for i, call in enumerate(claims) if call is not None))
        found = []
        for place, claim in enumerate(claims):
            call, place = (self._next_free(), place) if claim is None else next(known)
            found.append(self._answer(results[place][0], call))
        return found

    def _claim(self, name: Any) -> int | None:
        call = next((i for i in self._free if name is not None and self._ids[i] == name), None)
        if call is not None:
            self._free.remove(call)
        return call

    def _next_free(self) -> int:
        # Where every call has its result: past the end, which is no call.
        return self._free.pop(0) if self._free else len(self._ids)

    def _answer(self, result: Message, call: int) -> Message:
        answers = None if call == self._last + 1 else call
        self._last = call if call < len(self._ids) else self._last
        return dataclasses.replace(result, answers=answers)
