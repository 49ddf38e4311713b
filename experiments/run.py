"""PivotRL end to end: expert trajectories to a trained policy and a report.

    python -m experiments.run --config=experiments/swe.py            # preset laptop
    python -m experiments.run --config=experiments/swe.py:smoke --workdir=runs/trial
    python -m experiments.run --config=experiments/swe.py --config.train.steps=40

Each stage leaves its artifacts in the work directory and the next one reads them; the same
command resumes. `--stage=profile` runs that stage alone, once those before it are done.

On several hosts the same command is started once on each; docs/hosts.md has the lines.
"""

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import jax
import pyarrow as pa
from absl import app, flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import FlagOrderError

from experiments import report
from experiments.artifacts import write_json
from experiments.config import from_config
from experiments.context import (
    PROFILE,
    Run,
    claim,
    compiler_flags,
    key_of,
    open_run,
    use_compilation_cache,
    write_judge_stats,
)
from experiments.memory import release_memory, use_huge_pages
from experiments.progress import StageRecord, only_decisions, say, stage_timer
from experiments.settings import Settings
from experiments.stages.candidates import Corpus, candidates_stage, read_stage
from experiments.stages.end_to_end import end_to_end_stage
from experiments.stages.evaluate import evaluate_stage, summarise
from experiments.stages.rollouts import count_tokens, profile_stage, select_stage
from experiments.stages.train import train_stage
from experiments.stages.updates import count_scored, export_stage, sft_stage
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params
from pivotrl_jax.parallel import from_first, leave, set_flags, start
from pivotrl_jax.training import SIGNALS, Stopped, parse_steps
from pivotrl_jax.trajectories import Split

DEFAULT_CONFIG = "experiments/swe.py"
STAGES = (
    "read", "candidates", "evaluate_base", "sft", "evaluate_sft", "profile", "select", "train",
    "evaluate_pivotrl", "end_to_end", "evaluate_end_to_end", "summary", "report",
)  # fmt: skip

# Without a default here: absl would read overrides of it while this module is imported, where a
# misspelt one cannot be caught.
CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where artifacts go; by default runs/<config>-<preset>."
)
STAGE = flags.DEFINE_enum("stage", None, STAGES, "Run this stage only.")
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "Trace these steps of train, sft or end_to_end, such as train:10-12."
)
XLA_FLAGS = flags.DEFINE_bool("xla_flags", True, "Add the platform's compiler flags.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 of a run on several hosts listens."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes the run has.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0.")


class Finished(Exception):
    """The stage that --stage asked for is done."""


class Interrupted(KeyboardInterrupt):
    """The signal `number` came where nothing is in flight that is worth saving."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


@contextlib.contextmanager
def stage(run: Run, name: str, only: str | None) -> Iterator[StageRecord]:
    """Times a stage and marks it done; refuses to run ahead of, and stops after, `only`."""
    marker = run.workdir / "done" / name
    done = from_first(marker.exists)
    if only is not None and name != only and not done:
        raise UserError(f"stage {only!r} needs stage {name!r} first; run --stage={name}")
    if done:
        yield StageRecord()
    else:
        with stage_timer(run.workdir, name) as record:
            yield record
        write_json(marker, {"stage": name})
        write_judge_stats(run)
        release_memory()
    if name == only:
        raise Finished


def execute(run: Run, only: str | None = None) -> None:
    """All stages in order. A finished one only loads what it left."""
    train_and_evaluate(run, only)
    with stage(run, "report", only):
        say(f"report: {from_first(lambda: report.write(run.workdir))}")


def train_and_evaluate(run: Run, only: str | None = None) -> None:
    """All stages but the report."""
    settings = run.settings
    with stage(run, "read", only):
        trajectories = read_stage(run)
    with stage(run, "candidates", only) as record:
        corpus = candidates_stage(run, trajectories)
        record.tokens = sum(map(len, corpus.trunks))
        claim(run)
        for name, value in compiler_flags().items():
            say(f"{name}={value}")
    policy = run.with_adapters(run.base_params())
    tables = {}

    def evaluate(name: str) -> None:
        with stage(run, f"evaluate_{name}", only) as record:
            tables[name] = evaluate_stage(run, corpus, policy, name)
            count_tokens(run, record, f"evaluate/{name}")

    evaluate("base")
    if settings.sft.epochs:
        with stage(run, "sft", only) as record:
            policy = sft_stage(run, corpus, policy)
            count_scored(run, record, "sft")
            if not settings.train.steps:
                export_stage(run, policy)
        evaluate("sft")
    profiled: dict[Split, pa.Table] = {}
    if settings.train.steps:
        profiled = profile(run, corpus, policy, only)
        with stage(run, "select", only):
            select_stage(run, corpus, profiled["train"], run.workdir / "select")
        with stage(run, "train", only) as record:
            policy = train_stage(run, corpus, policy)
            count_scored(run, record, "train")
            export_stage(run, policy)
        evaluate("pivotrl")
    if settings.end_to_end.steps:
        with stage(run, "end_to_end", only) as record:
            policy = end_to_end_stage(run, policy)
            count_scored(run, record, "end_to_end")
            export_stage(run, policy)
        evaluate("end_to_end")
    with stage(run, "summary", only):
        from_first(lambda: summarise(run, tables, profiled.get("heldout")))


def profile(run: Run, corpus: Corpus, policy: Params, only: str | None) -> dict[Split, pa.Table]:
    """The candidate tables of both splits."""
    with stage(run, "profile", only) as record:
        profiled = {
            split: profile_stage(
                run,
                corpus,
                policy,
                f"profile/{split}",
                turns,
                key_of(run, PROFILE),
                run.settings.profile.samples,
            )
            for split, turns in corpus.turns.items()
        }
        count_tokens(run, record, *(f"profile/{split}" for split in corpus.turns))
    return profiled


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; options are --NAME=VALUE")
    only_decisions()
    settings = from_config(Settings, CONFIG.value)
    workdir = Path(WORKDIR.value or f"runs/{settings.name}-{settings.preset}")
    trace = parse_steps(PROFILE_STEPS.value, steps_of(settings)) if PROFILE_STEPS.value else None
    if XLA_FLAGS.value:
        set_flags(os.environ)
    start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    use_compilation_cache()
    run = open_run(settings, workdir, trace)
    with jax.set_mesh(run.mesh):
        try:
            execute(run, STAGE.value)
        except Finished:
            say(f"stage {STAGE.value} is done: {workdir}")


def steps_of(settings: Settings) -> dict[str, int | None]:
    """The steps of every stage that trains; those of SFT follow from the number of trajectories."""
    return {
        "train": settings.train.steps,
        "sft": None if settings.sft.epochs else 0,
        "end_to_end": settings.end_to_end.steps,
    }


def friendly(entry: Callable[[list[str]], None]) -> None:
    """Runs absl's main; what the user can mend ends in one sentence instead of a traceback.

    What ends one process of a run ends all of them.
    """
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        app.run(entry, flags_parser=parse)
    except (Stopped, Interrupted) as stopped:
        command, code = shlex.join(["python", *sys.orig_argv[1:]]), 128 + stopped.number
        words = f"{stopped}; run the same command again to go on: {command}"
        if isinstance(stopped, Interrupted):  # which the others may not have heard
            leave(stopped, words, code)
        say(words)
        sys.exit(code)
    except (Exception, KeyboardInterrupt) as error:
        said = sentence(error)
        leave(error, said)
        if said is None:
            raise
        sys.exit(f"error: {said}")


def sentence(error: BaseException) -> str | None:
    """What to tell the user; None for what only a traceback explains."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.filename or error}); free some space and run "
            "the same command again, it resumes"
        )
    return None


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Between the stages that end in their own way: what is on disk is whole or absent."""
    for again in SIGNALS:
        signal.signal(again, signal.SIG_DFL)
    raise Interrupted(number)


def parse(argv: list[str]) -> list[str]:
    """Flags to values; whatever is wrong with them becomes one sentence."""
    named = [arg.partition("=")[2] for arg in argv if arg.lstrip("-").startswith("config=")]
    if not named:
        argv = [argv[0], f"--config={DEFAULT_CONFIG}", *argv[1:]]
    for file in (name.partition(":")[0] for name in named):
        if not Path(file).is_file():
            raise UserError(f"no config file {file!r}; experiments/ holds them")
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        problem = re.sub(r"\\n|\\|'", " ", str(error)).strip()
        raise UserError(f"no such configuration field: {' '.join(problem.split())}") from error
    except FlagOrderError as error:
        raise UserError("--config=FILE must come before the fields that it is to change") from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        # ml_collections wraps a config file's own error in its traceback; the last line says it.
        last = str(error).strip().splitlines()[-1].strip()
        raise UserError(last.removeprefix("ValueError: ")) from error


if __name__ == "__main__":
    use_huge_pages()
    friendly(main)
