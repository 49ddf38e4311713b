"""Block sizes of the Pallas kernel, as data."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tokens and vocabulary rows of one program.

    The head is read once per block of tokens, so `tokens` is also the work per byte of a bfloat16
    head. By their data sheets a v5p needs 165 to be busy, a v5e 240, an H100 295 and a v6e 560.
    """

    tokens: int = 512
    vocab: int = 512


# Prefix of the device kind, widest row of hidden states or head in bytes, blocks; the first match
# counts. A TPU program holds whole rows, twice (one set is computed on while the next arrives), in
# 16 MiB of VMEM, or 32 on a v6e. A Triton program holds a chunk of the width and keeps its logits
# in registers; its neighbours share the head through the L2 cache.
TABLE: tuple[tuple[str, float, Blocks], ...] = (
    ("TPU v6", 6 * 1024, Blocks(1024, 512)),
    ("TPU", 6 * 1024, Blocks()),
    ("TPU", 12 * 1024, Blocks(256, 256)),
    ("TPU", math.inf, Blocks(128, 128)),
    ("", math.inf, Blocks(128, 128)),
)


def choose(device_kind: str, row_bytes: int) -> Blocks:
    """Blocks for a device (`jax.Device.device_kind`) and a row of D numbers."""
    return next(
        blocks
        for prefix, widest, blocks in TABLE
        if device_kind.startswith(prefix) and row_bytes <= widest
    )
