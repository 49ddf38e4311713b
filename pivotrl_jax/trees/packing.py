"""Static shapes for trees of any size."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def round_up(n: int, multiple: int) -> int:
    """The smallest positive multiple that holds n. Few shapes, few compilations."""
    return max(1, -(-n // multiple)) * multiple


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
