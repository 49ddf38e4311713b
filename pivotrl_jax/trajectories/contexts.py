"""What the rows of a file share: system prompts and tools that stand once, in a file beside it."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivotrl_jax.errors import UserError

PATTERN = "*contexts.json*"
Contexts = Mapping[str, Any]


def is_contexts(file: Path) -> bool:
    """Whether a file holds contexts and no trajectories."""
    return file.match(PATTERN)


def beside(file: Path) -> Contexts:
    """The contexts of every `*contexts.json` or `.json.gz` in the folder of `file`, by key.

    A context is {"system_prompt": str, "tools": [function schemas]}, both optional. Raises
    UserError if such a file cannot be read.
    """
    found: dict[str, Any] = {}
    for companion in sorted(file.parent.glob(PATTERN)):
        try:
            data = companion.read_bytes()
            text = gzip.decompress(data) if companion.suffix == ".gz" else data
            found |= json.loads(text)
        except (OSError, EOFError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{companion} holds no contexts ({error}): give a JSON object of "
                '{"system_prompt", "tools"} by key, or move the file away'
            ) from error
    return found


def resolved(row: dict[str, Any], contexts: Contexts) -> dict[str, Any]:
    """`row` with `system_prompt` and `tools` of the contexts it names, unless it has its own.

    It names them by `context_key` (one), `apis` or `involved_classes` (lists).
    """
    keys = _keys(row)
    known = [contexts[key] for key in keys if isinstance(contexts.get(key), dict)]
    prompts = [each["system_prompt"] for each in known if each.get("system_prompt")]
    tools = [tool for each in known for tool in each.get("tools", ())]
    shared = {"system_prompt": "\n\n".join(prompts), "tools": tools}
    return {**{name: value for name, value in shared.items() if value}, **row}


def _keys(row: Mapping[str, Any]) -> list[str]:
    stated = row.get("context_key") or row.get("apis") or row.get("involved_classes") or []
    keys = [stated] if isinstance(stated, str) else stated
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
