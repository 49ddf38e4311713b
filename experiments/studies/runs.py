"""The runs of a study: one for each arm and seed, some of them at once."""

import contextlib
import copy
import multiprocessing
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax

from experiments.config import from_config
from experiments.context import Run, open_run, use_compilation_cache
from experiments.progress import only_decisions
from experiments.run import train_and_evaluate
from experiments.settings import Settings
from experiments.studies.arms import Arm

Work = tuple[Arm, int]  # and its seed


def settings_of(config: Any, arm: Arm, seed: int, workdir: Path) -> Settings:
    """The run of an arm: the configuration with the arm's overrides and this seed."""
    own = copy.deepcopy(config)
    with own.unlocked():
        own.update_from_flattened_dict(dict(arm.overrides))
        own.seed = own.selection.seed = seed
        if arm.like is not None:
            own.profile.samples_from = str(workdir / arm.like / str(seed))
    return from_config(Settings, own)


def run_all(
    config: Any, work: Sequence[Work], first: Arm, workdir: Path, jobs: int
) -> Iterator[Work]:
    """Runs all `work`, `jobs` of them at once, in its order as far as one does not need another;
    yields what is done.

    A run needs that of `first` with its seed, and that of the arm that it is like; these come
    before it. Several at once have a process each, and log.txt in their folders instead of lines on
    the terminal. The first error ends it all, once the runs beside it are done.
    """
    if jobs == 1:
        for arm, seed in work:
            print(f"== {arm.title}, seed {seed}", flush=True)
            run_arm(config, arm, first, seed, workdir)
            yield arm, seed
        return
    # A process for each run: what it compiled and allocated ends with it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        try:
            for arm, seed in _in_turn(pool, config, work, first, workdir, jobs):
                print(f"== {arm.title}, seed {seed}: done", flush=True)
                yield arm, seed
        except KeyboardInterrupt:
            # SIGTERM, upon which a run saves, may have come to this process alone.
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _in_turn(
    pool: Executor, config: Any, work: Sequence[Work], first: Arm, workdir: Path, jobs: int
) -> Iterator[Work]:
    """Starts runs as soon as there is room and what they need is there; yields what is done."""
    waiting, done = list(work), set[tuple[str, int]]()
    running: dict[Future[None], Work] = {}
    while waiting or running:
        for arm, seed in _ready(waiting, done, first)[: jobs - len(running)]:
            waiting.remove((arm, seed))
            future = pool.submit(_logged, sys.orig_argv, config, arm, first, seed, workdir)
            running[future] = arm, seed
        assert running, f"what {waiting[0][0].name} needs is not among the runs"
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            arm, seed = running.pop(future)
            future.result()
            done.add((arm.name, seed))
            yield arm, seed


def _ready(waiting: Iterable[Work], done: set[tuple[str, int]], first: Arm) -> list[Work]:
    def needs(arm: Arm) -> set[str]:
        return {first.name, arm.like or first.name} - {arm.name}

    return [(arm, seed) for arm, seed in waiting if all((x, seed) in done for x in needs(arm))]


def _logged(
    command: list[str], config: Any, arm: Arm, first: Arm, seed: int, workdir: Path
) -> None:
    """`run_arm` in a process of its own, which passes for that of `command`."""
    sys.orig_argv = command
    use_compilation_cache()
    directory = workdir / arm.name / str(seed)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        open(directory / "log.txt", "a", buffering=1, encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        only_decisions()
        run_arm(config, arm, first, seed, workdir)


def run_arm(config: Any, arm: Arm, first: Arm, seed: int, workdir: Path) -> None:
    """Trains and evaluates one arm in ARM/SEED of the work directory."""
    directory = workdir / arm.name / str(seed)
    settings = settings_of(config, arm, seed, workdir)
    run = open_run(settings, directory)
    if arm.name != first.name:
        take_base(run, workdir / first.name / str(seed))
    with jax.set_mesh(run.mesh):
        train_and_evaluate(run)


def take_base(run: Run, other: Path) -> None:
    """The base is one policy in all arms of a seed: it is evaluated once."""
    done = Path("done", "evaluate_base")
    if (run.workdir / done).exists():
        return
    for file in [*other.glob("evaluate/base*"), other / done]:
        target = run.workdir / file.relative_to(other)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, target, dirs_exist_ok=True)
        else:
            shutil.copy2(file, target)
