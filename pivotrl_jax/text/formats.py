"""The action formats by name."""

import difflib

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.actions import FencedBash, FencedSql, HermesTags, PlainJson, TaggedList
from pivotrl_jax.text.harmony import Harmony
from pivotrl_jax.text.parsing import ActionFormat
from pivotrl_jax.text.react import React
from pivotrl_jax.text.terminus import Terminus
from pivotrl_jax.text.webdancer import WebDancer


def action_format(name: str) -> ActionFormat:
    """Return the format of that name; UserError, listing them all, on any other name."""
    formats: tuple[ActionFormat, ...] = (
        FencedBash(),
        FencedSql(),
        HermesTags(),
        PlainJson(),
        PlainJson("llama3", ("parameters", "arguments"), tag="<|python_tag|>"),
        TaggedList(),
        Harmony(),
        React(),
        Terminus(),
        WebDancer(),
    )
    by_name = {fmt.name: fmt for fmt in formats}
    if name not in by_name:
        nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown action format {name!r}: use one of {', '.join(by_name)} "
            f"(nearest is {nearest!r})"
        )
    return by_name[name]
