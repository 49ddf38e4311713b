"""Every arm of a study, several seeds of each, and what they measured.

    python -m experiments.ablations --config=experiments/textworld.py --seeds=3
    python -m experiments.ablations --config=experiments/textworld.py:quick --arms=base,sft,pivotrl
    python -m experiments.ablations --config=experiments/textworld.py --tune

Arms and seeds are runs of `experiments.run`, in folders ARM/SEED of the work directory, and resume
like them: what is done is not done again. Overrides on the command line hold for every arm. What
they measured is in summary.json, study.md and study.html of the work directory.

`--tune` chooses learning rates before all that: as many trials for every arm, with seed 0 and in
tune/ of the work directory, are compared by episodes of validation tasks. It leaves tuned.json,
and the arms of later commands take their rates from there.
"""

import copy
import importlib
import operator
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections.config_flags.config_flags import get_config_filename

from experiments import study_report
from experiments.arms import Arm, Study
from experiments.config import from_config
from experiments.context import Run, open_run, write_json
from experiments.memory import use_huge_pages
from experiments.run import CONFIG, WORKDIR, friendly, train_and_evaluate
from experiments.settings import Settings
from experiments.study_summary import choices, summary
from experiments.tune import VALIDATION, choice, trials, tuned, with_overrides
from pivotrl_jax.errors import UserError
from pivotrl_jax.models.pretrained import default_cache
from pivotrl_jax.parallel import make_mesh

SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds of every arm.", lower_bound=1)
CHOSEN = flags.DEFINE_list("arms", None, "These arms only; by default all of the study's.")
TUNE = flags.DEFINE_bool("tune", False, "Choose the arms' learning rates, and do nothing else.")


def study_of(file: str) -> Study:
    """The study of a configuration file. UserError where it has none."""
    module = importlib.import_module(".".join(Path(file).with_suffix("").parts))
    found = getattr(module, "STUDY", None)
    if not isinstance(found, Study):
        raise UserError(f"{file} describes no study; use --config=experiments/textworld.py")
    return found


def settings_of(config: Any, arm: Arm, seed: int, workdir: Path) -> Settings:
    """The run of an arm: the configuration with the arm's overrides and this seed."""
    own = copy.deepcopy(config)
    with own.unlocked():
        own.update_from_flattened_dict(dict(arm.overrides))
        own.seed = seed
        if arm.like is not None:
            own.profile.samples_from = str(workdir / arm.like / str(seed))
    return from_config(Settings, own)


def chosen(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """The named arms (None: all) in the study's order, with those whose samples they take."""
    by_name = {arm.name: arm for arm in arms}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise UserError(f"no arm {unknown[0]!r}; the study has {', '.join(by_name)}")
    wanted = [by_name[name] for name in (by_name if names is None else names)]
    all_names = {arms[0].name, *(arm.name for arm in wanted), *(arm.like for arm in wanted)}
    return [arm for arm in arms if arm.name in all_names]


def runs(arms: Sequence[Arm], seeds: int) -> Iterator[tuple[Arm, int]]:
    """Seed by seed, so that a study that is stopped has whole seeds."""
    return ((arm, seed) for seed in range(seeds) for arm in arms)


def run_arm(config: Any, arm: Arm, first: Arm, seed: int, workdir: Path) -> None:
    directory = workdir / arm.name / str(seed)
    settings = settings_of(config, arm, seed, workdir)
    run = open_run(settings, directory)
    if arm is not first:
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


def tune(config: Any, study: Study, arms: Sequence[Arm], workdir: Path) -> None:
    """Runs every arm's trials and writes what they chose to tuned.json, arm by arm."""
    first, found = with_overrides(arms[0], VALIDATION), choices(workdir)
    run_arm(config, first, first, 0, workdir / "tune")
    for arm in arms:
        if arm.tuned is None:
            continue
        settings = settings_of(config, arm, 0, workdir)
        own = trials(arm, study.factors, operator.attrgetter(arm.tuned)(settings))
        for trial in own:
            print(f"== {arm.title}, {arm.tuned} {trial.overrides[arm.tuned]:g}", flush=True)
            run_arm(config, trial, first, 0, workdir / "tune")
        found[arm.name] = choice(own, workdir / "tune")
        write_json(workdir / "tuned.json", found)
        print(f"== {arm.title}: {found[arm.name]['chosen']:g}", flush=True)


def require_episodes(settings: Settings, file: str) -> None:
    """UserError for a preset that a study cannot measure arms with."""
    if not settings.environment.name:
        raise UserError(
            f"preset {settings.preset!r} plays no episodes, which a study compares its arms by; "
            f"use --config={file}:study"
        )


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    file = get_config_filename(flags.FLAGS["config"])
    config, study = CONFIG.value, study_of(file)
    settings = from_config(Settings, config)
    require_episodes(settings, file)
    workdir = Path(WORKDIR.value or f"runs/study-{settings.name}-{settings.preset}")
    jax.config.update("jax_compilation_cache_dir", str(default_cache() / "compiled"))
    arms = chosen(study.arms, CHOSEN.value)
    mesh = make_mesh(settings.mesh)
    with jax.set_mesh(mesh):
        study.prepare(mesh)
    if TUNE.value:
        tune(config, study, arms, workdir)
        return
    arms = tuned(arms, choices(workdir))
    for arm, seed in runs(arms, SEEDS.value):
        print(f"== {arm.title}, seed {seed}", flush=True)
        run_arm(config, arm, arms[0], seed, workdir)
        write_json(workdir / "summary.json", summary(workdir, arms, SEEDS.value))
    print(f"report: {study_report.write(workdir, workdir)}")


if __name__ == "__main__":
    use_huge_pages()
    friendly(main)
