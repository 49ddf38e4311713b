"""Functional equivalence of a sampled and an expert action, per domain."""

import difflib
from collections.abc import Callable
from functools import partial

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.commands import Command
from pivotrl_jax.verifiers.compatible.verifier import COMPATIBLE, compatible
from pivotrl_jax.verifiers.edit import FileEdits
from pivotrl_jax.verifiers.many import verify_many
from pivotrl_jax.verifiers.search import Search
from pivotrl_jax.verifiers.sql import Sql
from pivotrl_jax.verifiers.terminal import Terminal
from pivotrl_jax.verifiers.textworld import TextWorld
from pivotrl_jax.verifiers.tool_call import TypedCalls
from pivotrl_jax.verifiers.tool_name import ToolName
from pivotrl_jax.verifiers.verdict import Verdict, Verifier

__all__ = [
    "Command",
    "FileEdits",
    "Search",
    "Sql",
    "Terminal",
    "TextWorld",
    "ToolName",
    "TypedCalls",
    "Verdict",
    "Verifier",
    "verifier",
    "verify_many",
]


def verifier(name: str, databases: str | None = None) -> Verifier:
    """The verifier called `name` with its defaults.

    Strict: "command", "edit", "search", "sql", "terminal", "textworld", "tool_call",
    "tool_name". With upstream's verdicts: "tool_args", "swe_pivot", "terminus", "multi_harness".
    `databases` is where "sql" finds its databases, and for "textworld" the file of games. Raises
    UserError for another name and where there are none.
    """
    makers: dict[str, Callable[[], Verifier]] = {
        "command": Command,
        "edit": FileEdits,
        "search": Search,
        "sql": partial(Sql, databases or ""),
        "terminal": Terminal,
        "textworld": partial(TextWorld, databases or ""),
        "tool_call": TypedCalls,
        "tool_name": ToolName,
        **{each: partial(compatible, each) for each in COMPATIBLE},
    }
    if name not in makers:
        nearest = difflib.get_close_matches(name, makers, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown verifier {name!r}: use one of {', '.join(makers)} (nearest is {nearest!r})"
        )
    return makers[name]()
