"""TPU generations: what they can do at most, and the devices of a slice that nobody has to have."""

import dataclasses
import re

import jax
from jax.experimental import topologies

from pivotrl_jax.errors import UserError

MOST_CHIPS = 512


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation. `peak`, `bandwidth` and `links` are those of a chip, in bfloat16 FLOP/s and
    in bytes/s of HBM and of what arrives from other chips; `memory` is what the compiler lets a
    program on one device have, in GiB.

    Peaks and bandwidths are from Google's pages (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e
    and tpu7x); `links` is half of the bidirectional figure there. `clock`, in Hz, turns the
    compiler's cycles into seconds: the peak over the FLOPs that the matrix units do in a cycle. A
    product of matrices of 8,192 x 8,192 then takes 1.07 (v4) to 1.42 (v6e) times as long as at the
    peak.
    """

    kind: str  # device kind begins with
    peak: float
    bandwidth: float
    links: float
    memory: float
    clock: float
    devices: int = 1  # that JAX sees per chip


CHIPS = {
    "v4": Chip("TPU v4", 275e12, 1228e9, 300e9, 30.75, 1.05e9),
    "v5e": Chip("TPU v5 lite", 197e12, 819e9, 200e9, 15.75, 1.5e9),
    "v5p": Chip("TPU v5", 459e12, 2765e9, 600e9, 95.74, 1.75e9),
    "v6e": Chip("TPU v6 lite", 918e12, 1638e9, 400e9, 31.25, 1.75e9),
    "7x": Chip("TPU7x", 2307e12, 7380e9, 600e9, 94.75, 2.2e9, devices=2),
}


def chip_of(topology: str) -> Chip:
    """Of `GENERATION:AxB` or `GENERATION:AxBxC`. Raises UserError for another name."""
    name, chips = _parts(topology)
    if name not in CHIPS or not chips:
        raise UserError(
            f"--topology={topology} names no TPU slice; use one of {', '.join(CHIPS)}, a colon and "
            "the chips along each axis, as in v5p:4x4x4"
        )
    if (number := count_chips(topology)) > MOST_CHIPS:
        raise UserError(f"--topology={topology} has {number} chips; {MOST_CHIPS} is the most")
    return CHIPS[name]


def count_chips(topology: str) -> int:
    number = 1
    for along in _parts(topology)[1]:
        number *= along
    return number


def _parts(topology: str) -> tuple[str, list[int]]:
    name, _, shape = topology.removeprefix("tpu").partition(":")
    plain = re.fullmatch(r"\d+(x\d+){1,2}", shape)
    return name, [int(n) for n in shape.split("x")] if plain else []


def devices(topology: str) -> list[jax.Device]:
    """The slice's devices as libtpu describes them. Raises UserError where it cannot."""
    name, shape = _parts(topology)[0], topology.partition(":")[2]
    # Two cores of a v4 chip are one device, as on Cloud TPU; the others are so by themselves.
    extra = {"chip_config_name": "megacore"} if name == "v4" else {}
    wanted = f"tpu7x:{shape}" if name == "7x" else f"{name}:{shape}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=wanted, **extra)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"libtpu has no slice {wanted} ({reason}); `pip install libtpu`, or choose another "
            "shape"
        ) from None
    return list(found.devices)
