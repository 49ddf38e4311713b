"""ReAct turns: a thought, then one action such as `search[query]`."""

import dataclasses
import re

from pivotrl_jax.text.parsing import ParsedAction, parsed, split_reasoning, verified
from pivotrl_jax.trajectories.schema import Action, ToolCall

# The published prompts number their lines ("Thought 1:"), fine-tuning data does not.
_ACTION = re.compile(r"^Action(?: \d+)?:[ \t]*(.*)$", re.MULTILINE)
_THOUGHT = re.compile(r"\s*Thought(?: \d+)?: ?")
_CALL = re.compile(r"([\w-]+)\[(.*)\][ \t\r]*")


@dataclasses.dataclass(frozen=True)
class React:
    """`Thought: ...`, then `Action: tool[argument]` (ReAct, arXiv 2210.03629; FireAct).

    `tools` names the one argument of each tool. The thought is the action's text; a turn without
    an action is text as it stands.
    """

    tools: tuple[tuple[str, str], ...] = (
        ("search", "query"), ("lookup", "keyword"), ("finish", "answer"),
    )  # fmt: skip
    name: str = dataclasses.field(default="react", init=False)

    def print(self, action: Action) -> str:
        """Print as FireAct's GPT-4 data is written."""
        if not action.calls:
            return verified(self, action, action.text)
        call = action.calls[0]
        arguments = call.arguments if isinstance(call.arguments, dict) else {}
        value = arguments.get(self._argument(call.name))
        head = f"Thought: {action.text}\n" if action.text else ""
        return verified(self, action, f"{head}Action: {call.name}[{value}]")

    def parse(self, text: str) -> ParsedAction:
        """Read the first line that states an action; it ends at the line's last bracket."""
        reasoning, visible, problems = split_reasoning(text)
        line = _ACTION.search(visible)
        if line is None:
            return parsed(visible, (), [*problems, "no_action"], reasoning)
        head = visible[: line.start()].removesuffix("\n")
        thought = _THOUGHT.match(head)
        if head and not thought:
            problems.append("no_thought")
        if visible[line.end() :].strip():
            problems.append("text_after_action")
        calls = self._calls(line[1], problems)
        return parsed(head[thought.end() :] if thought else head, calls, problems, reasoning)

    def _calls(self, line: str, problems: list[str]) -> list[ToolCall]:
        match = _CALL.fullmatch(line)
        if match is None:
            problems.append("bad_action")
            return []
        tool, value = match[1], match[2]
        if tool not in dict(self.tools):
            problems.append("unknown_tool")
        if re.search(r"\][,;]? *[\w-]+\[", value):
            problems.append("several_actions")
        return [ToolCall(tool, {self._argument(tool): value})]

    def _argument(self, tool: str) -> str:
        return dict(self.tools).get(tool, "input")
