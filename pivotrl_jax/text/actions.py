"""An assistant turn as text: a command in a fence, calls in tags, calls as plain JSON."""

import dataclasses
import re

from pivotrl_jax.text.parsing import (
    NOTHING,
    ParsedAction,
    call_json,
    decode_json,
    parsed,
    read_call,
    split_calls,
    split_reasoning,
    verified,
    whole_json,
)
from pivotrl_jax.trajectories.schema import Action, ToolCall

_UNREAD_CALL = re.compile(r'<tool_call>|<\|python_tag\|>|\{\s*"name"\s*:')


@dataclasses.dataclass(frozen=True)
class FencedCode:
    """Free text, then the text argument of one call in a fence of its language.

    The first of `languages` is written, any is read.
    """

    languages: tuple[str, ...]
    tool: str
    argument: str

    @property
    def name(self) -> str:
        return f"fenced_{self.languages[0]}"

    @property
    def _opening(self) -> re.Pattern[str]:
        languages = "|".join(self.languages)
        return re.compile(rf"^(`{{3,}})(?:{languages})[ \t\r]*(?:\n|\Z)", re.MULTILINE)

    def print(self, action: Action) -> str:
        """Print with a fence longer than any run of backticks that starts a line inside."""
        if not action.calls:
            return verified(self, action, action.text)
        arguments = action.calls[0].arguments
        command = arguments.get(self.argument) if isinstance(arguments, dict) else None
        if not isinstance(command, str):
            raise ValueError(f"the call has no text argument {self.argument!r} to put in a fence")
        runs = re.findall(r"^`+", command, re.MULTILINE)
        fence = "`" * max([3, *(len(run) + 1 for run in runs)])
        head = f"{action.text}\n\n" if action.text else ""
        return verified(self, action, f"{head}{fence}{self.languages[0]}\n{command}\n{fence}")

    def parse(self, text: str) -> ParsedAction:
        """Read exactly one block of the language; fences in other languages are plain text."""
        reasoning, visible, problems = split_reasoning(text)
        opening = self._opening.search(visible)
        if opening is None:
            return parsed(visible, (), [*problems, "no_fenced_block"], reasoning)
        head = visible[: opening.start()].removesuffix("\n").removesuffix("\n")
        closing = re.compile(rf"^`{{{len(opening[1])},}}[ \t\r]*$", re.MULTILINE).search(
            visible, opening.end()
        )
        if closing is None:
            return parsed(head, (), [*problems, "unclosed_fence"], reasoning)
        rest = visible[closing.end() :]
        if self._opening.search(rest):
            return parsed(head, (), [*problems, "several_fenced_blocks"], reasoning)
        if rest.strip():
            problems.append("text_after_block")
        command = visible[opening.end() : closing.start()].removesuffix("\n")
        call = ToolCall(self.tool, {self.argument: command})
        return parsed(head, [call], problems, reasoning)


@dataclasses.dataclass(frozen=True)
class FencedBash(FencedCode):
    """One shell command in a ```bash fence (mini-swe-agent version 1)."""

    languages: tuple[str, ...] = ("bash", "sh")
    tool: str = "bash"
    argument: str = "command"


@dataclasses.dataclass(frozen=True)
class FencedSql(FencedCode):
    """One SQL command in a ```sql fence."""

    languages: tuple[str, ...] = ("sql", "mysql")
    tool: str = "sql"
    argument: str = "query"


@dataclasses.dataclass(frozen=True)
class HermesTags:
    """Free text, then one <tool_call> JSON object per call (Hermes, Qwen)."""

    name: str = dataclasses.field(default="hermes", init=False)

    def print(self, action: Action) -> str:
        """Print as the Qwen chat templates do; tags inside JSON strings are escaped."""
        calls = [f"<tool_call>\n{call_json(call)}\n</tool_call>" for call in action.calls]
        head = [action.text] if action.text or not calls else []
        return verified(self, action, "\n".join(head + calls))

    def parse(self, text: str) -> ParsedAction:
        """Read every tagged call; whitespace and JSON-encoded arguments are forgiven."""
        reasoning, visible, problems = split_reasoning(text)
        head, bodies = split_calls(visible, problems)
        read = [read_call(whole_json(body, problems), problems) for body in bodies]
        return parsed(head, [call for call in read if call], problems, reasoning)


@dataclasses.dataclass(frozen=True)
class TaggedList:
    """Free text, then one <tool_call> tag around a JSON list of all calls (SmolLM2)."""

    name: str = dataclasses.field(default="smollm2", init=False)

    def print(self, action: Action) -> str:
        """Print as the model card of SmolLM2-1.7B-Instruct shows."""
        if not action.calls:
            return verified(self, action, action.text)
        listed = ", ".join(call_json(call) for call in action.calls)
        head = f"{action.text}\n" if action.text else ""
        return verified(self, action, f"{head}<tool_call>[{listed}]</tool_call>")

    def parse(self, text: str) -> ParsedAction:
        """Read every tag; a call outside a list and a second tag are problems, but are read."""
        reasoning, visible, problems = split_reasoning(text)
        head, bodies = split_calls(visible, problems)
        if len(bodies) > 1:
            problems.append("several_tags")
        values = [whole_json(body, problems) for body in bodies]
        if any(not isinstance(value, list) for value in values if value is not NOTHING):
            problems.append("not_a_list")
        listed = [each for value in values for each in _as_list(value)]
        read = [read_call(value, problems) for value in listed]
        return parsed(head, [call for call in read if call], problems, reasoning)


@dataclasses.dataclass(frozen=True)
class PlainJson:
    """Free text, then one JSON call, or a list of them, from the start of a line to the end.

    A turn without one is a message. `arguments` are the keys that a call's arguments may have; the
    first is written. Llama 3 is trained on "parameters", and puts `tag` before a call where it was
    told of built-in tools (llama.com, model cards and prompt formats, 3.1); of the two shapes that
    ai.google.dev/gemma/docs/capabilities/function-calling gives for Gemma 3, one is the same.
    """

    name: str = "json"
    arguments: tuple[str, ...] = ("arguments",)
    tag: str = ""

    def print(self, action: Action) -> str:
        """Print one object, or a list when there are several calls."""
        bodies = [call_json(call, self.arguments[0]) for call in action.calls]
        if len(bodies) > 1:
            bodies = [f"[{', '.join(bodies)}]"]
        head = [action.text] if action.text or not bodies else []
        return verified(self, action, "\n".join(head + bodies))

    def parse(self, text: str) -> ParsedAction:
        """Read the JSON value that starts the first line with a brace or a list of them.

        A call inside a line is a problem, and so is a tag without one.
        """
        reasoning, visible, problems = split_reasoning(text)
        start = self._start.search(visible)
        if start is None:
            problems += ["no_json"] if _UNREAD_CALL.search(visible) else []
            return parsed(visible, (), problems, reasoning)
        value, end = decode_json(visible, start.end(), problems)
        if visible[end:].strip():
            problems.append("text_after_call")
        if value == []:
            problems.append("no_call")
        read = [read_call(each, problems, self.arguments) for each in _as_list(value)]
        head = visible[: start.start()].removesuffix("\n")
        return parsed(head, [call for call in read if call], problems, reasoning)

    @property
    def _start(self) -> re.Pattern[str]:
        # A line of a message may well begin with a bracket: a link, a reference, "[Note]".
        tagged = rf"|{re.escape(self.tag)}\s*" if self.tag else ""
        return re.compile(rf"(?:^[ \t]*{tagged})(?=\{{|\[\s*(?:[\[{{\]]|\Z))", re.MULTILINE)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
