"""Misspelt names end in an error that names the nearest valid one."""

import difflib
from collections.abc import Sequence

from pivotrl_jax.errors import UserError


def require(field: str, name: str, valid: Sequence[str]) -> None:
    """Raise UserError unless `name` is one of `valid`."""
    if name in valid:
        return
    nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "there is nothing to choose from."
    raise UserError(f"{field}: no {name!r} among {', '.join(valid)}; {hint}")
