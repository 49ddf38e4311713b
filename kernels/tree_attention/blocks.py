"""Tokens that are treated at a time."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tokens per block of queries and of keys, powers of two; Mosaic wants at least 128."""

    queries: int
    keys: int


# (device kind begins with, at most so many numbers G * E per query, blocks). The first that fits
# holds. Operands in two buffers, G x queries x E each, and in the backward pass four arrays of
# keys x queries scores in float32 stay within 16 MiB of VMEM. Each byte of a key or value is good
# for G x queries operations, of which v6e does 560 in the time that it takes to read the byte. On a
# CPU, where the XLA form runs, scores are to stay in its cache.
BLOCKS = (
    ("cpu", 2**31, Blocks(queries=256, keys=256)),
    ("TPU v6", 128, Blocks(queries=1024, keys=512)),
    ("", 1024, Blocks(queries=512, keys=512)),
    ("", 2048, Blocks(queries=256, keys=512)),
    ("", 2**31, Blocks(queries=128, keys=256)),
)


def blocks_for(device_kind: str, groups: int, width: int, length: int, devices: int = 1) -> Blocks:
    """The table's blocks, but no larger than `length` tokens need: short rows are hardly padded.

    Where `devices` share a row, blocks of queries are those that pad it least, and of these the
    largest.
    """
    blocks = next(
        blocks
        for device, most, blocks in BLOCKS
        if device_kind.startswith(device) and groups * width <= most
    )
    needed = max(128, 1 << (length - 1).bit_length())
    fitting = Blocks(min(blocks.queries, needed), min(blocks.keys, needed))
    if devices == 1:
        return fitting
    sizes = [128 << n for n in range(needed.bit_length()) if 128 << n <= fitting.queries]
    smaller = [dataclasses.replace(fitting, queries=size) for size in sizes]
    return min(smaller, key=lambda own: (padded(length, own, devices), -own.queries))


def padded(length: int, blocks: Blocks, devices: int) -> int:
    """`length` tokens in whole blocks, of which each of `devices` deals as many to every other."""
    whole = math.lcm(blocks.queries * devices**2, blocks.keys)
    return -(-length // whole) * whole
