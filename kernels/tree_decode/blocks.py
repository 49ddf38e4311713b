"""How much of a trunk is read: at a time by the kernel, at least by XLA's form."""

# (device kind begins with, at most so many queries per key head, tokens). The first that fits
# holds. A step of the grid costs a third of a microsecond, in which HBM delivers what 2,048 keys
# and values of width 128 take on v5e and more elsewhere; and queries x tokens scores in float32,
# several times over, stay within 16 MiB of VMEM.
BLOCKS = (
    ("TPU v5 lite", 128, 2048),
    ("", 128, 4096),
    ("", 512, 1024),
    ("", 1024, 512),
    ("", 2**31, 128),
)
# (device kind begins with, parts of the trunk of which XLA's form reads the first few). Where the
# host must learn of every branch that is taken, as on a GPU, there is one.
PARTS = (("cpu", 4), ("", 1))


def keys_per_block(device_kind: str, queries: int) -> int:
    return next(
        tokens
        for device, most, tokens in BLOCKS
        if device_kind.startswith(device) and queries <= most
    )


def parts(device_kind: str) -> int:
    return next(number for device, number in PARTS if device_kind.startswith(device))
