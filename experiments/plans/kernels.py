"""What the Pallas kernels of a program compute: the compiler has no estimate of them."""

import dataclasses
import math
import re

from experiments.plans.chips import CHIPS, Chip
from experiments.plans.hlo import Instruction, arrays, size

# Share of the peak that kernels reach on v4, v5e, v5p, v6e and 7x: the cycles that their products
# take in full matrix units over the instruction bundles that libtpu has scheduled for one block,
# for heads of 128 numbers in groups of 8 and a width of 2,048, but no more than what libtpu expects
# of one large product (the last row). Experts' tiles that reach into the next expert's rows are
# taken off. `LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR
# --xla_jf_dump_llo_text=true"` writes the bundles. Waiting for memory is not in them.
RATES = {
    "tree_attention_attend": (0.48, 0.70, 0.70, 0.23, 0.28),
    "tree_attention_differentiate_queries": (0.79, 0.88, 0.90, 0.43, 0.44),
    "tree_attention_differentiate_keys": (0.72, 0.88, 0.90, 0.44, 0.50),
    "linear_logprob": (0.88, 0.88, 0.90, 0.70, 0.80),
    "ragged-dot-none": (0.84, 0.84, 0.86, 0.64, 0.74),
}
ANY = (0.93, 0.88, 0.90, 0.70, 0.80)
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
        """On one device, which has its share of the chip; as long as the slower of products and
        memory takes."""
        rate = RATES.get(self.kernel, ANY)[list(CHIPS.values()).index(chip)]
        return chip.devices * max(self.flops / (rate * chip.peak), self.bytes / chip.bandwidth)


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
    stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.rest)
    flops = _flops(kernel, arrays(operands), seen) or float(stated[1] if stated else 0)
    return Call(kernel, flops, moved)


def _flops(kernel: str, shapes: list[list[int]], seen: float) -> float:
    """0 for a kernel that is none of ours; XLA's own state theirs."""
    if kernel == "linear_logprob":
        hidden_TD, head_VD = shapes[:2]
        return 2.0 * math.prod(hidden_TD) * head_VD[0]
    if kernel == "tree_decode":
        q_RHQE, k_RHEL, _ = shapes[-3:]
        return 2.0 * PRODUCTS[kernel] * math.prod(q_RHQE) * k_RHEL[3]
    if kernel in PRODUCTS:
        number = next(i for i, dims in enumerate(shapes) if len(dims) == 5)
        q_RHGTE, k_RHTE = shapes[number : number + 2]
        return 2.0 * PRODUCTS[kernel] * math.prod(q_RHGTE) * k_RHTE[2] * seen
    return 0.0
