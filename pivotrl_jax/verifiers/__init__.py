"""Functional equivalence of a sampled and an expert action, per domain."""

import difflib
from collections.abc import Callable
from functools import partial

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.command import Command
from pivotrl_jax.verifiers.sql import Sql
from pivotrl_jax.verifiers.tool_name import ToolName
from pivotrl_jax.verifiers.verdict import Verdict, Verifier

__all__ = ["Command", "Sql", "ToolName", "Verdict", "Verifier", "verifier"]


def verifier(name: str, databases: str | None = None) -> Verifier:
    """The verifier called `name` ("command", "sql" or "tool_name") with its defaults.

    `databases` is where "sql" finds its databases. Raises UserError for an unknown name and where
    there are none.
    """
    makers: dict[str, Callable[[], Verifier]] = {
        "command": Command,
        "sql": partial(Sql, databases or ""),
        "tool_name": ToolName,
    }
    if name not in makers:
        nearest = difflib.get_close_matches(name, makers, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown verifier {name!r}: use one of {', '.join(makers)} (nearest is {nearest!r})"
        )
    return makers[name]()
