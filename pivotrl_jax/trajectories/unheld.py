"""What a row states that no Trajectory holds."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pivotrl_jax.trajectories.nemo_gym import sampled

LISTS = ("messages", "conversations", "history", "trajectory", "input", "output")


def unheld(row: Mapping[str, Any]) -> Counter[str]:
    """Counts by name: roles that are read as another, thoughts that only their author can read."""
    found: Counter[str] = Counter()
    for entry in _entries(row):
        if entry.get("role") == "developer":
            found["role developer, read as system"] += 1
        if entry.get("type") == "reasoning" and entry.get("encrypted_content"):
            found["encrypted_content of a reasoning"] += 1
    return found


def _entries(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    row = sampled(row)
    places = (row, row.get("responses_create_params"), row.get("response"))
    lists = (place.get(name) for place in places if isinstance(place, dict) for name in LISTS)
    for stated in lists:
        if isinstance(stated, list):
            yield from (each for each in stated if isinstance(each, dict))
