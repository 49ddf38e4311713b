"""Functional equivalence of a sampled and an expert action, per domain."""

import difflib

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.command import Command
from pivotrl_jax.verifiers.edit import FileEdits
from pivotrl_jax.verifiers.search import Search
from pivotrl_jax.verifiers.terminal import Terminal
from pivotrl_jax.verifiers.tool_call import TypedCalls
from pivotrl_jax.verifiers.tool_name import ToolName
from pivotrl_jax.verifiers.verdict import Verdict, Verifier

__all__ = [
    "Command",
    "FileEdits",
    "Search",
    "Terminal",
    "ToolName",
    "TypedCalls",
    "Verdict",
    "Verifier",
    "verifier",
]


def verifier(name: str) -> Verifier:
    """The verifier called `name` with its defaults.

    "tool_call", "edit", "search", "terminal", "command" or "tool_name"; UserError on another name.
    """
    verifiers: tuple[Verifier, ...] = (
        TypedCalls(), FileEdits(), Search(), Terminal(), Command(), ToolName(),
    )  # fmt: skip
    by_name = {each.name: each for each in verifiers}
    if name not in by_name:
        nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown verifier {name!r}: use one of {', '.join(by_name)} (nearest is {nearest!r})"
        )
    return by_name[name]
