"""Schemas of the tools that some agents' files take for granted."""

from typing import Any

from pivotrl_jax.trajectories.parsing import function


def _command_tool(name: str, does: str, argument: str, meaning: str) -> dict[str, Any]:
    """The OpenAI schema of a tool with one text argument."""
    properties = {argument: {"type": "string", "description": meaning}}
    schema = {"type": "object", "properties": properties, "required": [argument]}
    return function(name, does, schema)


# mini-swe-agent's and InterCode's; their files do not repeat it.
BASH_TOOL = _command_tool(
    "bash", "Execute a bash command", "command", "The bash command to execute"
)
SQL_TOOL = _command_tool("sql", "Execute one MySQL command", "query", "The MySQL command")
