"""Equivalence of Terminus answers: JSON with the keystrokes that a terminal is to receive."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, Message
from pivotrl_jax.verifiers.commands.command import COMPARED, compare
from pivotrl_jax.verifiers.commands.normal import directory_after, normalise
from pivotrl_jax.verifiers.matching import Scores
from pivotrl_jax.verifiers.schemas import Schema
from pivotrl_jax.verifiers.validation import violations
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_PARSED = 16_000  # characters of keystrokes; the longest of 225 expert answers has 6,000
_CRITERIA: tuple[str, ...] = (
    "well_formed", "kind", "schema", "complete", "keys", "directory", *COMPARED,
)  # fmt: skip


def _object(properties: Mapping[str, Any], required: tuple[str, ...]) -> dict:
    nodes = {k: {"type": v} if isinstance(v, str) else v for k, v in properties.items()}
    return {"type": "object", "properties": nodes, "required": list(required),
            "additionalProperties": False}  # fmt: skip


def _harness(texts: tuple[str, str], command: dict, flag: str, required: tuple[str, ...]) -> dict:
    commands = {"type": "array", "items": command}
    properties = {**dict.fromkeys(texts, "string"), "commands": commands, flag: "boolean"}
    return _object(properties, required)


_HARNESSES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "terminus_1": _harness(
        ("state_analysis", "explanation"),
        _object({"keystrokes": "string", "is_blocking": "boolean", "timeout_sec": "number"},
                ("keystrokes", "is_blocking", "timeout_sec")),
        "is_task_complete",
        ("state_analysis", "explanation", "commands", "is_task_complete"),
    ),
    "terminus_2": _harness(
        ("analysis", "plan"),
        _object({"keystrokes": "string", "duration": "number"}, ("keystrokes",)),
        "task_complete",
        ("analysis", "plan", "commands"),
    ),
})  # fmt: skip

# What tmux takes for keys when it is all of a command's keystrokes; Enter is a newline.
_KEY = re.compile(
    r"(?!C-m$)(?:[CMS]-)+(?:\S|[A-Z]\w+)|\^\S|F\d\d?|Escape|Tab|BTab|BSpace|Space|Up|Down|Left|Right|Home|"
    r"End|PageUp|PageDown|PgUp|PgDn|PPage|NPage|DC|IC"
)
_ENTER = frozenset({"Enter", "C-m", "KPEnter"})
_PROMPT = re.compile(r"[\w.-]{1,64}@[\w.-]{1,64}:([~/][^\s#$]{0,500})[#$]")


@dataclasses.dataclass(frozen=True)
class Terminal(Rules):
    """Compares the keystrokes of a Terminus answer with the expert's; nothing is executed.

    The harness is the fact "harness" of the context, else whichever the expert's answer fits.
    All keystrokes count as one stream, since `ls` and then ` -la` are one command; it is parsed as
    shell text as `Command` does. Criteria, each in [0, 1]:
      well_formed  the sample parsed without a problem
      kind         it makes no call and its whole text is one JSON object
      schema       the object fits the harness's schema; no other key at any level
      complete     the completion flag is the expert's (absent is false)
      keys         the same special keys (C-c, Escape, ...) at the same places between the commands
      directory    the commands leave the shell in the same directory
      program to similarity
                   as in `Command`, over all commands in order; 1 where both sides type nothing
      exact        equal in all but how it is spelt, and in what precedes the shell criteria
    Durations, blocking flags and prose are not compared. The working directory is read off the
    last shell prompt of the dialogue, else it is `root`. What is typed into anything but a shell
    is compared as if it were one.
    """

    root: str = "/app"
    name = "terminal"
    criteria = _CRITERIA

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        expected = _read_object(expert.text) if not expert.calls else None
        harness = _fitting(expected, context.facts.get("harness"))
        if expected is None or harness is None:
            return Verdict({}, "", error="the expert's answer fits the schema of no harness")
        if sampled.problems:
            return self._scores({}, "; ".join(sampled.problems))
        actual = _read_object(sampled.action.text) if not sampled.action.calls else None
        if actual is None:
            return self._scores({"well_formed": 1.0}, "the text is not one JSON object")
        scores = {"well_formed": 1.0, "kind": 1.0}
        if broken := violations(actual, _schema(harness)):
            return self._scores(scores, f"schema: {min(broken)}")
        place = _directory(context.history) or self.root
        scores |= {"schema": 1.0} | _compare(expected, actual, place)
        failed = [name for name, score in scores.items() if score < 1]
        return self._scores(scores, f"differs in {', '.join(failed)}" if failed else "equal")


def _schema(harness: str) -> Schema:
    return Schema(_HARNESSES[harness], _HARNESSES[harness])


def _fitting(answer: Any, stated: Any) -> str | None:
    names = [stated] if stated in _HARNESSES else list(_HARNESSES)
    return next((name for name in names if not violations(answer, _schema(name))), None)


def _read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is; duplicate keys and numbers beyond JSON make it none."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("duplicate keys")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError("no JSON number")
        return float(number)

    try:
        value = json.loads(
            text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _directory(history: Sequence[Message]) -> str | None:
    """The directory in the last shell prompt that the environment shows."""
    shown = (message.content[-_MAX_PARSED:] for message in reversed(history)
             if message.role in ("user", "tool"))  # fmt: skip
    prompts = _PROMPT.findall(next(shown, ""))
    return prompts[-1] if prompts and prompts[-1].startswith("/") else None


def _compare(expected: dict[str, Any], actual: dict[str, Any], root: str) -> Scores:
    (typed, keys), (other, other_keys) = _stream(expected), _stream(actual)
    complete = [answer.get("task_complete", answer.get("is_task_complete", False))
                for answer in (expected, actual)]  # fmt: skip
    scores = {
        "complete": float(complete[0] == complete[1]),
        "keys": float(keys == other_keys),
        "directory": float(directory_after(typed, root) == directory_after(other, root)),
    }
    shell = _compare_shell(typed, other, root)
    whole = shell["exact"] * min(scores.values())
    return scores | shell | {"exact": whole}


def _compare_shell(expected: str, actual: str, root: str) -> Scores:
    forms = [normalise(text[:_MAX_PARSED], root) for text in (expected, actual)]
    if not all(forms):
        return dict.fromkeys(COMPARED, float(not any(forms)))
    scores = compare(*forms)
    if expected[_MAX_PARSED:] != actual[_MAX_PARSED:]:
        scores |= {"exact": 0.0, "content": 0.0}
    return scores


def _stream(answer: dict[str, Any]) -> tuple[str, list[tuple[int, str]]]:
    """All that is typed, and every special key with the number of lines before it.

    A last line that is typed but not entered ends in the key "".
    """
    typed: list[str] = []
    keys: list[tuple[int, str]] = []
    lines = 0
    for command in answer["commands"]:
        keystrokes = command["keystrokes"]
        if _KEY.fullmatch(keystrokes.strip()):
            keys.append((lines, keystrokes.strip()))
            continue
        typed.append("\n" if keystrokes.strip() in _ENTER else keystrokes)
        lines += typed[-1].count("\n")
    text = "".join(typed)
    return text, keys if not text or text.endswith("\n") else [*keys, (lines, "")]
