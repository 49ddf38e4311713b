"""The presets of every experiment fit their data, verifier and text format."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from experiments import mixed, search, sql, swe, terminal, tool_use
from experiments.config import from_config, to_config
from experiments.context import open_run
from experiments.settings import Settings
from experiments.stages.candidates import candidates_stage, read_stage
from pivotrl_jax.objectives import compile_recipe
from pivotrl_jax.text import ParsedAction, action_format
from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.recipe import reward

EXPERIMENTS = (mixed, search, sql, swe, terminal, tool_use)
PRESETS = [(experiment, preset) for experiment in EXPERIMENTS for preset in experiment.PRESETS]


def named(value: object) -> str | None:
    return value.__name__.split(".")[-1] if isinstance(value, ModuleType) else None


@pytest.mark.parametrize(("experiment", "preset"), PRESETS, ids=named)
def test_every_preset_is_whole(experiment: ModuleType, preset: str) -> None:
    settings = experiment.PRESETS[preset]()
    assert (settings.name, settings.preset) == (named(experiment), preset)
    assert from_config(Settings, to_config(settings)) == settings
    assert from_config(Settings, experiment.get_config(preset)) == settings
    for domain in settings.domains.values():
        own = verifier(domain.reward.verifier, domain.reward.databases)
        assert compile_recipe(domain.reward.recipe, own.criteria)
        assert action_format(domain.text.action_format)
        # What a study reads, its command makes.
        assert list(Path().glob(domain.data.path)) or preset in ("study", "full")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=named)
def test_an_unknown_preset_is_refused(experiment: ModuleType) -> None:
    with pytest.raises(ValueError, match="no preset 'laptp'; use one of laptop, smoke"):
        experiment.get_config("laptp")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=named)
def test_experts_pass_the_laptops_recipe_in_the_policys_own_words(
    experiment: ModuleType, tmp_path: Path
) -> None:
    """Read, render, print, parse, verify: what the expert did earns 1 wherever it can be judged."""
    settings = experiment.PRESETS["smoke"]()
    run = open_run(settings, tmp_path)
    turns = candidates_stage(run, read_stage(run)).turns
    recipes = {name: own.reward.recipe for name, own in experiment.laptop().domains.items()}
    judged = []
    for turn in [*turns["train"], *turns["heldout"]]:
        domain = run.domains[turn.domain]
        parsed = domain.fmt.parse(domain.fmt.print(turn.expert))
        assert parsed == ParsedAction(turn.expert)
        verdict = domain.verifier(turn.expert, parsed, turn.context)
        judged.append(None if verdict.error else reward(recipes[turn.domain], verdict.criteria))
    assert set(judged) <= {1.0, None}
    assert judged.count(1.0) > 0.9 * len(judged) > 9
    audit = json.loads((tmp_path / "candidates" / "audit.json").read_text())
    assert audit["flat_tokens"] > audit["trunk_tokens"]
