"""What the Pallas kernels of a program compute: the compiler has no estimate of them."""

import dataclasses
import math
import re

from experiments.compile_chips import Chip
from experiments.compile_hlo import Instruction, arrays, size

# Share of the peak that kernels are taken to reach, an assumption. Where few FLOPs meet many bytes
# the bandwidth decides.
RATE = 0.5
# Products of scores' size that a kernel does, each of 2 FLOPs per pair and number of a head.
PRODUCTS = {
    "tree_attention_attend": 2,
    "tree_attention_differentiate_queries": 3,
    "tree_attention_differentiate_keys": 4,
    "tree_decode": 2,
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call on one device."""

    kernel: str
    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        """On one device, which has its share of the chip."""
        share = 1 / chip.devices
        return max(self.flops / (RATE * chip.peak * share), self.bytes / (chip.bandwidth * share))


def call(instruction: Instruction, seen: float) -> Call | None:
    """What a `tpu_custom_call` does, by its name and the shapes of its operands; None for others.

    `seen` is the share of a row's pairs of tokens that attention visits.
    """
    if 'custom_call_target="tpu_custom_call"' not in instruction.rest:
        return None
    kernel = re.sub(r"\.\d+$", "", instruction.name)
    printed = re.search(r"operand_layout_constraints=\{(.*?)\}, \w+=", instruction.rest)
    operands = printed[1] if printed else ""
    moved = float(size(operands) + size(instruction.result))
    return Call(kernel, _flops(kernel, arrays(operands), seen), moved)


def _flops(kernel: str, shapes: list[list[int]], seen: float) -> float:
    """0 for a kernel that is not known here."""
    if kernel == "linear_logprob":
        hidden_TD, head_VD = shapes[:2]
        return 2.0 * math.prod(hidden_TD) * head_VD[0]
    if kernel == "tree_decode":
        q_RHQE, k_RHEL = shapes[2:4]
        return 2.0 * PRODUCTS[kernel] * math.prod(q_RHQE) * k_RHEL[3]
    if kernel in PRODUCTS:
        q_RHGTE = shapes[3]
        return 2.0 * PRODUCTS[kernel] * math.prod(q_RHGTE) * q_RHGTE[3] * seen
    return 0.0
