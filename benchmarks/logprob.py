"""Time and memory of log-probs from hidden states: ours, dense, chunked with remat, tokamax.

    python -m benchmarks.logprob [--quick] [--json FILE]

`temp_mib` is what XLA sets aside beside arguments and results. The gradient is that of the summed
log-probs with respect to hidden states and head. tokamax's op (a summed loss, no entropy) joins in
where it is installed.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax

from benchmarks.command import parser, run
from benchmarks.table import Row, report
from benchmarks.timing import medians, once
from kernels.linear_logprob import linear_logprob
from kernels.linear_logprob.api import Implementation


class Shape(NamedTuple):
    """Scored tokens, model width, vocabulary and type of the operands."""

    tokens: int
    width: int
    vocab: int
    dtype: str


SMOLLM2, QWEN3_1_7B = (576, 49152), (2048, 151936)
GRID = (
    Shape(256, *SMOLLM2, "float32"),
    Shape(2048, *SMOLLM2, "float32"),
    Shape(512, *QWEN3_1_7B, "float32"),
)
ACCELERATOR = tuple(Shape(tokens, *QWEN3_1_7B, "bfloat16") for tokens in (512, 4096))
QUICK = (Shape(256, *SMOLLM2, "float32"),)
CHUNK = 128  # tokens

COLUMNS = (
    "pass", "side", "tokens", "width", "vocab", "dtype", "seconds", "against_dense", "temp_mib",
    "memory_share",
)  # fmt: skip

# Summed log-probs of hidden states, head and labels.
Score = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def scores() -> dict[str, Score]:
    """The sides that this machine can run."""

    def ours(implementation: Implementation) -> Score:
        return lambda h, w, y: linear_logprob(h, w, y, implementation=implementation).logp_T.sum()

    found = {"dense": ours("reference"), "chunked": chunked, "xla": ours("xla")}
    if jax.default_backend() != "cpu":
        found["pallas"] = ours("pallas")
    if importlib.util.find_spec("tokamax"):
        found["tokamax"] = tokamax
    return found


def chunked(hidden_TD: jax.Array, head_VD: jax.Array, labels_T: jax.Array) -> jax.Array:
    """Dense on a chunk of tokens at a time, recomputed in the backward pass."""

    @jax.checkpoint
    def one(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        return linear_logprob(part[0], head_VD, part[1], implementation="reference").logp_T.sum()

    parts = (hidden_TD.reshape(-1, CHUNK, hidden_TD.shape[1]), labels_T.reshape(-1, CHUNK))
    return jax.lax.map(one, parts).sum()


def tokamax(hidden_TD: jax.Array, head_VD: jax.Array, labels_T: jax.Array) -> jax.Array:
    import tokamax as library
    from absl import flags

    # It would look for its own flags among ours.
    flags.FLAGS.mark_as_parsed()
    return -library.linear_softmax_cross_entropy_loss(hidden_TD, labels_T, head_VD.T)


def operands(shape: Shape) -> tuple[jax.Array, jax.Array, jax.Array]:
    hidden, head, labels = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(hidden, (shape.tokens, shape.width), shape.dtype),
        jax.random.normal(head, (shape.vocab, shape.width), shape.dtype) * shape.width**-0.5,
        jax.random.randint(labels, (shape.tokens,), 0, shape.vocab),
    )


def rows(shapes: Sequence[Shape], rounds: int) -> Iterator[Row]:
    for shape in shapes:
        args = operands(shape)
        for name, wrap in {"forward": lambda f: f, "gradient": gradient}.items():
            programs = {
                side: jax.jit(wrap(score)).lower(*args).compile()
                for side, score in scores().items()
            }
            sides = {side: once(partial(f, *args)) for side, f in programs.items()}
            seconds, _ = medians(sides, None, rounds)
            temp = {side: temp_mib(f) for side, f in programs.items()}
            for side in programs:
                yield {
                    "pass": name,
                    "side": side,
                    **shape._asdict(),
                    "seconds": seconds[side],
                    "against_dense": seconds["dense"] / seconds[side],
                    "temp_mib": temp[side],
                    "memory_share": temp[side] / temp["dense"],
                }


def temp_mib(program: jax.stages.Compiled) -> float:
    found = program.memory_analysis()
    return float("nan") if found is None else found.temp_size_in_bytes / 2**20


def gradient(score: Score) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.grad(score, argnums=(0, 1))


def main() -> None:
    given = parser("logprob", __doc__).parse_args()
    grid = GRID if jax.default_backend() == "cpu" else GRID + ACCELERATOR
    shapes = QUICK if given.quick else grid
    title = f"Log-probs; chunked: {CHUNK} tokens; against_dense above 1 is faster than dense"
    report("logprob", {title: COLUMNS}, rows(shapes, given.rounds or 5), given.json)


if __name__ == "__main__":
    run(main)
