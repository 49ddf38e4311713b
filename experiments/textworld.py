"""PivotRL in text games, with a policy from scratch: the whole study of docs/study.md on a CPU.

    python -m experiments.ablations --config=experiments/textworld.py --jobs=2 --seeds=3   # :study
    python -m experiments.ablations --config=experiments/textworld.py --jobs=2 --tune
    python -m experiments.ablations --config=experiments/textworld.py:quick --arms=base,sft,pivotrl
    python -m experiments.ablations --config=experiments/textworld.py:smoke --arms=base,sft,pivotrl
    python -m experiments.run --config=experiments/textworld.py                   # one arm alone

preset   hardware              time           what comes out
study    2 CPU cores, 6 GiB    2 to 3 hours   trials, then all arms, three seeds: docs/study.md
quick    2 CPU cores, 6 GiB    7 minutes      every stage once; figures mean little
smoke    2 CPU cores, 6 GiB    4 minutes      the same in fewer, smaller games; figures mean nothing

The first command also makes what the others read, in runs/textworld: games, expert and weak
trajectories, and a base that was pre-trained on the weak ones and on reasoning-gym's tasks (35
minutes). The study's time is an estimate: its base has grown since it was last timed. The weak
trajectories are of games with two goals in four rooms, the study's own games have one goal in
three. `pip install -r requirements-study.txt` comes before it.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_collections
from jax.sharding import Mesh

from experiments import presets
from experiments.pretrain import PretrainSettings, pretrain
from experiments.settings import (
    DataSettings,
    EnvironmentSettings,
    ModelSettings,
    ProfileSettings,
    RewardSettings,
    Settings,
    SftSettings,
    SuiteSettings,
    TextSettings,
)
from experiments.studies.arms import ARMS, Study
from pivotrl_jax.environments import Split
from pivotrl_jax.environments.textworld_expert import Style, write_expert, write_weak
from pivotrl_jax.environments.textworld_games import generate
from pivotrl_jax.environments.textworld_house import EASY, MEDIUM
from pivotrl_jax.evaluation import EvaluationSettings
from pivotrl_jax.evaluation.suites import PROCEDURES, reasoning_questions
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import MeshSettings
from pivotrl_jax.pivots import SelectionSettings
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.training import EndToEndSettings, OptimizerSettings, TrainSettings
from pivotrl_jax.trajectories import EVERY_TURN, Message, Trajectory, read
from pivotrl_jax.verifiers.recipes import SAME_PROGRESS
from pivotrl_jax.verifiers.textworld import write_games

replace = dataclasses.replace
HOME = Path("runs/textworld")


@dataclasses.dataclass(frozen=True)
class World:
    """What a preset is made of: the study's games by split, games that weak players play, questions
    of each procedural task, and the steps of pre-training on these two."""

    counts: Mapping[Split, int]
    weak_games: int
    questions: int
    steps: int


FULL = World({"train": 400, "validation": 60, "test": 200}, 2_000, 6_000, steps=4_000)
WORLDS = {
    "study": FULL,
    "quick": replace(FULL, steps=400),
    "smoke": World({"train": 40, "validation": 4, "test": 8}, 150, 100, steps=150),
}
BASE = PretrainSettings(width=160, ffn=480)
EXPERT_STYLE, WEAK_STYLES = Style(0), tuple(Style(seed) for seed in range(1, 9))


def files(home: Path) -> tuple[Path, Path, Path]:
    """Games, the expert's trajectories, and those of weak players."""
    return home / "games.jsonl.gz", home / "expert.jsonl", home / "weak.jsonl"


def study() -> Settings:
    """The arm "PivotRL": no warm start, at most 32 pivots x 8 samples a step."""
    games, expert, _ = files(HOME)
    sampling = SamplingSettings(temperature=1.0, max_tokens=24)
    optimizer = OptimizerSettings(learning_rate=3e-4, warmup_steps=2)
    return Settings(
        name="textworld",
        domain="textworld",
        preset="study",
        seed=0,
        data=DataSettings(path=str(expert), heldout_share=0.1, turns=EVERY_TURN),
        text=TextSettings(
            action_format="hermes",
            tool_role="user",
            trunk_tokens=1024,
            clip_observation=None,
            clip_task=None,
        ),
        model=ModelSettings(name=str(HOME / "study" / "model")),
        mesh=MeshSettings(),
        engine=EngineSettings(rows=32, slots=256, row_multiple=256),
        reward=RewardSettings("textworld", SAME_PROGRESS, databases=str(games)),
        sft=SftSettings(
            epochs=0,
            rows=16,
            row_multiple=256,
            remat="dots",
            optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=3, schedule="cosine"),
        ),
        profile=ProfileSettings(samples=8, sampling=sampling),
        selection=SelectionSettings(threshold=0.6),
        objective=PolicySettings(kl_coef=0.001),
        train=TrainSettings(
            steps=60,
            rows=16,
            pivots_per_row=2,
            samples=8,
            row_multiple=256,
            remat="dots",
            save_every=20,
            optimizer=optimizer,
            sampling=sampling,
        ),
        evaluation=EvaluationSettings(samples=4, ood_texts=1, ood_tokens=64),
        environment=EnvironmentSettings(
            name="textworld", games=str(games), turns=20, samples=2, every=20
        ),
        suites=SuiteSettings(names=tuple(PROCEDURES), questions=40, max_tokens=24),
        end_to_end=EndToEndSettings(
            steps=0,
            tasks=8,
            samples=8,
            unfinished="score",
            row_multiple=256,
            remat="dots",
            save_every=20,
            optimizer=optimizer,
            sampling=sampling,
        ),
    )


def quick() -> Settings:
    """A few steps, a few games."""
    base = study()
    return replace(
        base,
        preset="quick",
        model=ModelSettings(name=str(HOME / "quick" / "model")),
        data=replace(base.data, limit=60),
        train=replace(base.train, steps=6),
        environment=replace(base.environment, tasks=12, samples=1),
        suites=replace(base.suites, questions=8),
    )


def smoke() -> Settings:
    """A base that hardly talks, in games of its own."""
    base, home = quick(), HOME / "smoke"
    games, expert, _ = files(home)
    return replace(
        base,
        preset="smoke",
        model=ModelSettings(name=str(home / "model")),
        data=replace(base.data, path=str(expert), limit=20),
        reward=replace(base.reward, databases=str(games)),
        profile=replace(base.profile, samples=4),
        train=replace(base.train, steps=2, rows=4, samples=4),
        evaluation=replace(base.evaluation, samples=2),
        environment=replace(base.environment, games=str(games), tasks=4, turns=6),
        suites=replace(base.suites, questions=4),
    )


PRESETS = {"study": study, "quick": quick, "smoke": smoke}


def get_config(preset: str = "study") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)


def prepare(mesh: Mesh, settings: Settings) -> None:
    """Makes what the configuration reads, unless it is there."""
    world, home = WORLDS[settings.preset], Path(settings.environment.games).parent
    if not files(home)[1].exists():
        play(world, home)
    model = Path(settings.model.name)
    if not model.exists():
        base = replace(BASE, steps=world.steps)
        pretrain(list(documents(world, home)), base, model.parent, mesh)


def play(world: World, home: Path) -> None:
    """Makes the games, and has the expert and the weak players play them."""
    games_file, expert, weak = files(home)
    home.mkdir(parents=True, exist_ok=True)
    games = generate(EASY, world.counts, seed=0)
    write_games(games, games_file)
    others = generate(MEDIUM, {"train": world.weak_games + len(games)}, seed=1)
    known = {game.id for game in games}
    apart = [game for game in others if game.id not in known][: world.weak_games]
    write_weak(apart, WEAK_STYLES, noise=0.3, path=weak)
    write_expert((game for game in games if game.split == "train"), EXPERT_STYLE, expert)


def documents(world: World, home: Path) -> Iterator[Trajectory]:
    """What the base learns from: weak play, and questions with their answers."""
    played, _ = read(str(files(home)[2]), "auto", home / "quarantine.jsonl", None)
    asked = reasoning_questions(tuple(PROCEDURES), "train", world.questions, seed=0)
    answered = (
        Trajectory(
            id=question.id,
            messages=(
                Message("user", question.prompt),
                Message("assistant", question.answer or ""),
            ),
            task_id=question.id,
            domain=question.suite,
            source="reasoning-gym",
        )
        for question in asked
    )
    return itertools.chain(played, answered)


# Of four rates for each arm, --tune found that these win most validation games.
RATES = {
    "sft": 5e-4,
    "pivotrl": 1.5e-4,
    "no_filter": 6e-4,
    "strict": 3.75e-5,
    "neither": 3.75e-5,
    "end_to_end": 6e-4,
}
STUDY = Study(prepare, ARMS, rates=RATES)
