"""Static shapes for trees of any size."""

import bisect
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def round_up(n: int, multiple: int) -> int:
    """The smallest positive multiple that holds n. Few shapes, few compilations."""
    return max(1, -(-n // multiple)) * multiple


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def balanced(sizes: Sequence[int], bins: int) -> list[list[int]]:
    """The numbers of items in `bins` bins of about equal total size: the largest first, each to
    the bin that holds least (Graham 1969). Items and bins keep their order otherwise."""
    found: list[list[int]] = [[] for _ in range(bins)]
    totals = [0] * bins
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        emptiest = totals.index(min(totals))
        found[emptiest].append(item)
        totals[emptiest] += sizes[item]
    return sorted(sorted(own) for own in found)


def filled(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """The numbers of items in bins of `capacity`: each item, in order, to the bin that it fills
    most (best fit), or to a new one. No item may be larger than a bin."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (capacity left, bin), sorted
    for item, size in enumerate(sizes):
        at = bisect.bisect_left(room, (size, 0))
        if at == len(room):
            at = bisect.bisect_left(room, (capacity, len(bins)))
            room.insert(at, (capacity, len(bins)))
            bins.append([])
        left, number = room.pop(at)
        bins[number].append(item)
        bisect.insort(room, (left - size, number))
    return bins
