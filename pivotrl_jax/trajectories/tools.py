"""Schemas of the tools that some agents' files take for granted."""

from typing import Any


def _command_tool(name: str, does: str, argument: str, meaning: str) -> dict[str, Any]:
    """The OpenAI schema of a tool with one text argument."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": does,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": meaning}},
                "required": [argument],
            },
        },
    }


# mini-swe-agent's and InterCode's.
BASH_TOOL = _command_tool(
    "bash", "Execute a bash command", "command", "The bash command to execute"
)
SQL_TOOL = _command_tool("sql", "Execute one MySQL command", "query", "The MySQL command")
