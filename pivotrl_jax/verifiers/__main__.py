"""Scores sampled outputs for pivot rows.

    python -m pivotrl_jax.verifiers score --verifier tool_args --mode compatible IN.jsonl OUT.jsonl

Each input line is {"id", "row", "output"} with a NeMo-Gym pivot row and Responses output items, and
optionally "config" with upstream's options; each output line {"id", "reward", "reason", "criteria"}
or {"id", "error"}. A strict verifier reads no options. IN may end in .gz or .zst, OUT in .gz, and
`-` is standard input or output.
"""

import argparse
import contextlib
import functools
import gzip
import itertools
import math
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import files
from pivotrl_jax.verifiers import scoring, workers

_SECONDS = 10.0  # for one verdict
_BREAKS_OFF = "the input breaks off in line {} ({}): get it again"
_MAX_LINE = 1 << 26  # bytes; what is longer is cut, and so no longer JSON


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when every line has its output line, 2 when the user has to mend something."""
    options = _parser().parse_args(arguments)
    make_work = functools.partial(
        _work, options.verifier, options.mode, options.threshold, options.databases
    )
    broken: list[str] = []
    try:
        make_work()  # a wrong name or threshold is told before anything is opened
        with (
            _reading(options.input, broken) as lines,
            _writing(options.output, options.input) as sink,
        ):
            results = workers.ordered(
                lines,
                make_work,
                scoring.lost_line,
                processes=workers.cores(),
                seconds=_SECONDS,
            )
            for result in results:
                sink.write(result.encode() + b"\n")
            sink.flush()
        if broken:
            raise UserError(broken[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pivotrl_jax.verifiers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="score")
    score = commands.add_parser("score", help="score a file of outputs")
    score.add_argument("--verifier", required=True, help="the verifier's name")
    score.add_argument("--mode", choices=scoring.MODES, default="strict")
    score.add_argument("--threshold", type=_finite, help="replaces the similarity threshold")
    score.add_argument("--databases", help="folder or tar of the strict verifier `sql`")
    score.add_argument("input", metavar="IN.jsonl")
    score.add_argument("output", metavar="OUT.jsonl")
    return parser


def _finite(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no finite number")


def _work(*options: Any) -> workers.Work:
    return functools.partial(scoring.score_line, score=scoring.scorer(*options))


@contextlib.contextmanager
def _reading(name: str, broken: list[str]) -> Iterator[Iterator[workers.Line]]:
    """Numbered lines without the blank ones; why the file ends early goes to `broken`."""
    if name.endswith(".zst"):
        yield _zst_lines(name, broken)
    elif name == "-":
        yield _lines(sys.stdin.buffer, broken)
    else:
        with _opened(name, "rb") as source:
            yield _lines(source, broken)


def _writing(name: str, source: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if name == "-":
        return contextlib.nullcontext(sys.stdout.buffer)
    if Path(name).exists() and source != "-" and Path(name).samefile(source):
        raise UserError(f"{name} is both input and output: write to another file")
    return _opened(name, "wb")


def _opened(name: str, mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, gzip.open(name, mode) if name.endswith(".gz") else open(name, mode))
    except OSError as error:
        raise UserError(f"{name} cannot be opened ({error.strerror}): check the path") from None


def _lines(source: BinaryIO, broken: list[str]) -> Iterator[workers.Line]:
    for number in itertools.count(1):
        try:
            line = rest = source.readline(_MAX_LINE)
            while len(rest) == _MAX_LINE and not rest.endswith(b"\n"):
                rest = source.readline(_MAX_LINE)
        except (OSError, EOFError, zlib.error) as error:
            broken.append(_BREAKS_OFF.format(number, error))
            return
        if not line:
            return
        if line.strip():
            yield number, line


def _zst_lines(name: str, broken: list[str]) -> Iterator[workers.Line]:
    for line in files.lines(Path(name)):
        if line.truncated:
            broken.append(_BREAKS_OFF.format(line.number, "a truncated or broken archive"))
        elif line.data.strip():
            yield line.number, line.data


if __name__ == "__main__":
    sys.exit(main())
