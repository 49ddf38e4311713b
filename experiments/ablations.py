"""Every arm of a study, several seeds of each, and what they measured.

    python -m experiments.ablations --config=experiments/textworld.py --seeds=3 --jobs=2
    python -m experiments.ablations --config=experiments/textworld.py:quick --arms=base,sft,pivotrl
    python -m experiments.ablations --config=experiments/textworld.py --tune

Arms and seeds are runs of `experiments.run`, in folders ARM/SEED of the work directory, and resume
like them: what is done is not done again. Overrides on the command line hold for every arm. What
they measured is in summary.json, study.md and study.html of the work directory. On a CPU, where a
small policy keeps no more than one core busy, `--jobs` runs several at once.

`--tune` chooses learning rates before all that: as many trials for every arm, with seed 0 and in
tune/ of the work directory, are compared by episodes of validation tasks. It leaves tuned.json,
and the arms of later commands take their rates from there; variants of PivotRL take PivotRL's.
Without it they take what the study says earlier trials chose.
"""

import importlib
import itertools
import operator
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections.config_flags.config_flags import get_config_filename

from experiments.artifacts import write_json
from experiments.config import from_config
from experiments.context import use_compilation_cache
from experiments.memory import use_huge_pages
from experiments.progress import only_decisions
from experiments.run import CONFIG, WORKDIR, XLA_FLAGS, friendly
from experiments.settings import Settings
from experiments.studies import report
from experiments.studies.arms import Arm, Study
from experiments.studies.runs import Work, run_all, settings_of
from experiments.studies.summary import choices, summary
from experiments.studies.tune import (
    VALIDATION,
    choice,
    require_choices,
    trials,
    tuned,
    with_overrides,
)
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import make_mesh, set_flags

SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds of every arm.", lower_bound=1)
CHOSEN = flags.DEFINE_list("arms", None, "These arms only; by default all of the study's.")
JOBS = flags.DEFINE_integer("jobs", 1, "How many runs at once, on CPU.", lower_bound=1)
TUNE = flags.DEFINE_bool("tune", False, "Choose the arms' learning rates, and do nothing else.")


def study_of(file: str) -> Study:
    """The study of a configuration file. UserError where it has none."""
    module = importlib.import_module(".".join(Path(file).with_suffix("").parts))
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise UserError(f"{file} describes no study; use --config=experiments/textworld.py")
    return found


def chosen(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """The named arms (None: all) in the study's order, with those that they take something of."""
    by_name = {arm.name: arm for arm in arms}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise UserError(f"no arm {unknown[0]!r}; the study has {', '.join(by_name)}")
    wanted = [by_name[name] for name in (by_name if names is None else names)]
    needed = {name for arm in wanted for name in (arm.name, arm.like, arm.rate_of)}
    all_names = {arms[0].name, *needed}
    return [arm for arm in arms if arm.name in all_names]


def runs(arms: Sequence[Arm], seeds: int) -> Iterator[Work]:
    """Seed by seed, so that a study that is stopped has whole seeds."""
    return ((arm, seed) for seed in range(seeds) for arm in arms)


def tune(config: Any, study: Study, arms: Sequence[Arm], workdir: Path, jobs: int) -> None:
    """Runs every arm's trials and writes what they chose to tuned.json."""
    first, place = with_overrides(arms[0], VALIDATION), workdir / "tune"
    tried = {arm.name: own for arm in arms if (own := _trials(config, study, arm, workdir))}
    work = [(trial, 0) for trial in (first, *itertools.chain(*tried.values()))]
    deque(run_all(config, work, first, place, jobs), maxlen=0)
    found = {name: choice(own, place) for name, own in tried.items()}
    write_json(workdir / "tuned.json", choices(workdir) | found)
    for arm in arms:
        if arm.name in found:
            print(f"== {arm.title}: {found[arm.name]['chosen']:g}", flush=True)


def _trials(config: Any, study: Study, arm: Arm, workdir: Path) -> list[Arm]:
    if arm.tuned is None:
        return []
    settings = settings_of(config, arm, 0, workdir)
    return trials(arm, study.factors, operator.attrgetter(arm.tuned)(settings))


def require_episodes(settings: Settings, file: str) -> None:
    """UserError for a preset that a study cannot measure arms with."""
    if not settings.environment.name:
        raise UserError(
            f"preset {settings.preset!r} plays no episodes, which a study compares its arms by; "
            f"use --config={file}:study"
        )


def require_cpu(jobs: int) -> None:
    """UserError for several processes where one takes all of an accelerator's memory."""
    if jobs > 1 and jax.default_backend() != "cpu":
        raise UserError(f"--jobs={jobs} is for CPUs; an accelerator takes one run at a time")


def main(argv: list[str]) -> None:
    only_decisions()
    file = get_config_filename(flags.FLAGS["config"])
    config, study = CONFIG.value, study_of(file)
    settings = from_config(Settings, config)
    require_episodes(settings, file)
    workdir = Path(WORKDIR.value or f"runs/study-{settings.name}-{settings.preset}")
    if XLA_FLAGS.value:
        set_flags(os.environ)
    require_cpu(JOBS.value)
    use_compilation_cache()
    arms = chosen(study.arms, CHOSEN.value)
    if not TUNE.value:
        require_choices(arms, choices(workdir), workdir / "tune")
    mesh = make_mesh(settings.mesh)
    with jax.set_mesh(mesh):
        study.prepare(mesh, settings)
    if TUNE.value:
        tune(config, study, arms, workdir, JOBS.value)
        return
    known = tuned(study, choices(workdir))
    arms = [arm for arm in known if arm.name in {own.name for own in arms}]
    for _ in run_all(config, list(runs(arms, SEEDS.value)), arms[0], workdir, JOBS.value):
        # Arms of earlier commands are in it as well.
        write_json(workdir / "summary.json", summary(workdir, known))
    print(f"report: {report.write(workdir, workdir)}")


if __name__ == "__main__":
    use_huge_pages()
    friendly(main)
