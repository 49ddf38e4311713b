"""Decoding and updates on one GPU: share of bandwidth, MFU, tree against flat.

    python -m benchmarks.gpu [--quick] [--json FILE]

The sides of `benchmarks.decode` and `benchmarks.update` with random bfloat16 weights in the shapes
of SmolLM2-135M and Qwen3-1.7B. MFU is forward and backward FLOPs (nothing counted twice) per second
over those of a large bfloat16 matrix product in the same run.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax

from benchmarks import decode, limits, update
from benchmarks.command import parser, run
from benchmarks.layouts import Point
from benchmarks.table import Row, report
from benchmarks.timing import medians
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig
from pivotrl_jax.models.presets import QWEN_3_1_7B, SMOLLM2_135M

MODELS = tuple(dataclasses.replace(cfg, dtype="bfloat16") for cfg in (SMOLLM2_135M, QWEN_3_1_7B))
POINTS = (
    Point(history=1024, action=32, samples=8, pivots=1),
    Point(history=1024, action=32, samples=8, pivots=8),
    Point(history=8192, action=128, samples=16, pivots=1),
)
SHAPES = tuple(
    decode.Shape(*places, length=4096, steps=128)
    for places in ((1, 1), (1, 16), (1, 64), (4, 64), (8, 32))
)

TABLES = {
    "Decoding": ("model", *decode.COLUMNS),
    "Updates": (
        "model", "history", "action", "samples", "pivots", "token_ratio", "seconds_flat",
        "seconds_tree", "speedup", "speedup_share", "sft_ratio", "mfu_tree", "mfu_flat", "mfu_sft",
        "product_teraflops",
    ),
}  # fmt: skip


def rows(
    models: Sequence[ModelConfig],
    shapes: Sequence[decode.Shape],
    points: Sequence[Point],
    rounds: int,
) -> Iterator[Row]:
    """Model by model: every decode shape, then every update with its MFU."""
    for cfg in models:
        yield from decode.rows(cfg, shapes, rounds)
        yield from (with_mfu(row, cfg, rounds) for row in update.rows(points, cfg, rounds))


def with_mfu(row: Row, cfg: ModelConfig, rounds: int) -> Row:
    """Adds the shares of what a matrix product reaches right after the update."""
    multiply, product = limits.product()
    seconds, _ = medians({"product": multiply}, None, rounds)
    best = product / seconds["product"]
    shares = {
        f"mfu_{side}": 1e12 * row[f"model_teraflops_{side}"] / row[f"seconds_{side}"] / best
        for side in ("tree", "flat", "sft")
    }
    return row | shares | {"model": cfg.name, "product_teraflops": best / 1e12}


def main() -> None:
    given = parser("gpu", __doc__).parse_args()
    if jax.default_backend() != "gpu":
        raise UserError(
            f"benchmarks.gpu needs a GPU and jax finds {jax.default_backend()!r} only; install "
            "jax[cuda12] on a machine with one, or run benchmarks.decode and benchmarks.update"
        )
    some = 1 if given.quick else None
    found = rows(MODELS[:some], SHAPES[:some], POINTS[:some], given.rounds or 5)
    report("gpu", TABLES, found, given.json)


if __name__ == "__main__":
    run(main)
