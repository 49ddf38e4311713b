"""Trunk tokens that are read at a time."""

# (device kind begins with, at most so many queries per key head, tokens). The first that fits
# holds. A step of the grid costs a third of a microsecond, in which HBM delivers what 2,048 keys
# and values of width 128 take on v5e and more elsewhere; and queries x tokens scores in float32,
# several times over, stay within 16 MiB of VMEM.
# On a CPU, a loop over small blocks costs more than scores that leave the cache; on a GPU, where
# every step of a loop of XLA's costs launches, the trunk is one block.
BLOCKS = (
    ("cpu", 2**31, 1024),
    ("NVIDIA", 2**31, 2**31),
    ("TPU v5 lite", 128, 2048),
    ("", 128, 4096),
    ("", 512, 1024),
    ("", 1024, 512),
    ("", 2**31, 128),
)


def keys_per_block(device_kind: str, queries: int) -> int:
    return next(
        tokens
        for device, most, tokens in BLOCKS
        if device_kind.startswith(device) and queries <= most
    )
