"""Round numbers for the axes of charts, and where values lie on them."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps data [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) that enclose [low, high]."""
    if high - low < 1e-12:
        high = low + (abs(low) * 0.1 or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float, among: Sequence[float]) -> str:
    """`value` with the decimals that tell the ticks `among` apart, and a true minus sign."""
    step = among[1] - among[0] if len(among) > 1 else abs(value) or 1.0
    if value and step < 1e-3:
        text = f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        text = f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" if value else "0"
    return text.replace("-", "−")


def whole(values: Sequence[float]) -> list[float]:
    """The whole numbers among `values`, or all of them."""
    return [value for value in values if abs(value - round(value)) < 1e-9] or list(values)
