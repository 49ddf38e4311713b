"""python -m pivotrl_jax.trajectories convert --from F --to F IN OUT, or inspect IN."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.convert import TARGETS, convert
from pivotrl_jax.trajectories.formats import FORMATS
from pivotrl_jax.trajectories.nemo_gym_rows import RowSettings
from pivotrl_jax.trajectories.readers import read
from pivotrl_jax.trajectories.summary import summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; what the user can mend is one sentence, with status 2."""
    options = _parser().parse_args(arguments)
    try:
        for line in _run(options):
            print(line)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(options: argparse.Namespace) -> list[str]:
    if options.command == "inspect":
        return summary(*read(options.source, options.fmt))
    settings = RowSettings(options.agent, options.calls, options.pass_threshold)
    return convert(options.source, options.target, options.fmt, options.to, settings, options.run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pivotrl_jax.trajectories", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser("inspect", help="print what a file, directory or glob holds")
    converting = commands.add_parser("convert", help="write a file in another format")
    for command in (inspecting, converting):
        command.add_argument("source", metavar="IN", help="file, directory or glob")
        names = ("auto", *FORMATS)
        command.add_argument("--from", dest="fmt", default="auto", choices=names, metavar="FORMAT")
    converting.add_argument("target", metavar="OUT", type=Path)
    converting.add_argument("--to", required=True, choices=TARGETS)
    rows = RowSettings()
    converting.add_argument("--agent", default=rows.agent, help="the agent's name in NeMo Gym")
    converting.add_argument("--calls", default=rows.calls, choices=("singular", "batch"))
    converting.add_argument("--pass-threshold", type=float, default=rows.pass_threshold)
    converting.add_argument("--run", type=Path, help="work directory: its selected pivots only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
