"""Settings as a ConfigDict and back, and what the command line may change."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import mixed, run, swe
from experiments.artifacts import differences
from experiments.config import from_config, to_config
from experiments.context import as_json, with_defaults
from experiments.settings import Settings
from pivotrl_jax.errors import UserError
from pivotrl_jax.models.presets import SMOLLM2_135M

Parse = Callable[..., ConfigDict]

# In the host preset these are unset; on the command line they accept values of their own type.
UNSET = [
    ("train.malformed_penalty", "-5", -5.0),
    ("train.malformed_penalty", "-0.5", -0.5),
    ("data.limit", "12", 12),
    ("model.layers", "2", 2),
    ("reward.recipe.graded", "similarity", "similarity"),
    ("wandb_project", "pivots", "pivots"),
]
WRONG = [
    ("--config.train.stepz=3", r"stepz Did you mean .?steps"),
    ("--config.trian.steps=3", r"trian Did you mean .?train"),
    ("--config.train.steps=many", r"--config\.train\.steps=many: invalid literal"),
    ("--config.data.limit=some", r"--config\.data\.limit=some: invalid literal"),
    ("--config=experiments/nowhere.py", r"no config file 'experiments/nowhere\.py'"),
    ("--config=experiments/swe.py:smok", r"no preset 'smok'; use one of laptop, smoke"),
    ("--workdr=runs/a", r"[Uu]nknown command line flag 'workdr'"),
]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """The command line's own parser on flags of its own, since absl keeps one set per process."""

    def parsed(*argv: str) -> ConfigDict:
        values = flags.FlagValues()
        config = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", ["run", *argv])
        run.parse(sys.argv)
        return config.value

    return parsed


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize("preset", swe.PRESETS)
def test_every_preset_survives_the_round_trip(preset: str) -> None:
    settings = swe.PRESETS[preset]()
    assert settings.preset == preset
    assert from_config(Settings, to_config(settings)) == settings
    assert from_config(Settings, swe.get_config(preset)) == settings


@pytest.mark.parametrize("preset", swe.PRESETS)
def test_every_leaf_can_be_set_on_the_command_line(preset: str, parse: Parse) -> None:
    settings = swe.PRESETS[preset]()
    given = {path: value for path, value in leaves(settings) if value is not None}
    assert len(given) > 60
    arguments = [f"--config.{path}={value}" for path, value in given.items()]
    config = parse(f"--config=experiments/swe.py:{preset}", *arguments)
    assert from_config(Settings, config) == settings


@pytest.mark.parametrize(("path", "text", "value"), UNSET)
def test_an_unset_field_takes_a_value_of_its_type(
    path: str, text: str, value: Any, parse: Parse
) -> None:
    assert at(swe.host(), path) is None
    config = parse("--config=experiments/swe.py:host", f"--config.{path}={text}")
    found = at(from_config(Settings, config), path)
    assert found == value
    assert type(found) is type(value)


def test_an_override_changes_that_field_alone(parse: Parse) -> None:
    config = parse("--config=experiments/swe.py:smoke", "--config.train.optimizer.b1=0.5")
    before, after = dict(leaves(swe.smoke())), dict(leaves(from_config(Settings, config)))
    assert {path for path in before if before[path] != after[path]} == {"train.optimizer.b1"}
    assert after["train.optimizer.b1"] == 0.5


def test_without_a_config_file_the_laptop_preset_runs(parse: Parse) -> None:
    config = parse("--config.train.steps=3")
    assert (config.preset, config.train.steps) == ("laptop", 3)


def test_a_config_file_after_what_overrides_it_is_told(parse: Parse) -> None:
    with pytest.raises(UserError, match=r"--config=FILE must come before the fields"):
        parse("--config.train.steps=3", "--config=experiments/swe.py:smoke")


@pytest.mark.parametrize(("argument", "said"), WRONG)
def test_a_mistake_is_one_line_that_names_it(argument: str, said: str, parse: Parse) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse(argument)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_names_the_nearest() -> None:
    config = to_config(swe.smoke())
    config.train.step = 3
    with pytest.raises(UserError, match=r"config\.train\.step is no field.*config\.train\.steps$"):
        from_config(Settings, config)


def test_a_missing_field_is_named() -> None:
    config = to_config(swe.smoke())
    del config.profile["samples"]
    with pytest.raises(UserError, match=r"config\.profile\.samples is missing; set it"):
        from_config(Settings, config)


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("reward.truncated", "fial", "fail"),
        ("text.tool_role", "usr", "user"),
        ("text.reasoning", "keeep", "keep"),
        ("sft.optimizer.schedule", "cosin", "cosine"),
        ("train.normalisation", "mena", "mean"),
    ],
)
def test_a_choice_that_does_not_exist_names_the_nearest(
    path: str, value: str, nearest: str, parse: Parse
) -> None:
    config = parse(f"--config.{path}={value}")
    with pytest.raises(UserError, match=rf"config\.{path}: no '{value}' .*'{nearest}'"):
        from_config(Settings, config)


def test_a_domain_of_a_mixed_run_is_set_by_its_name(parse: Parse) -> None:
    config = parse(
        "--config=experiments/mixed.py",
        "--config.others.sql.weight=2.5",
        "--config.others.search.data.limit=7",
        "--config.data.limit=5",
    )
    found = from_config(Settings, config)
    assert list(found.domains) == ["terminal", "search", "sql", "tool_use"]
    assert found.domains["sql"].weight == 2.5
    limits = [own.data.limit for own in found.domains.values()]
    assert limits == [5, 7, *[own.data.limit for own in list(mixed.laptop().others.values())[1:]]]


def test_an_unknown_field_of_a_domain_names_the_nearest() -> None:
    config = to_config(mixed.smoke())
    config.others.sql.wieght = 3.0
    with pytest.raises(UserError, match=r"config\.others\.sql\.wieght is no field.*sql\.weight$"):
        from_config(Settings, config)


def test_a_file_of_an_older_version_has_the_defaults_of_newer_fields() -> None:
    settings = swe.laptop()
    old = as_json(settings)
    del old["mesh"]["context"], old["lora"]
    assert differences(with_defaults(old, settings), as_json(settings)) == []
    other = dataclasses.replace(settings, mesh=dataclasses.replace(settings.mesh, context=2))
    changed = differences(with_defaults(old, other), as_json(other))
    assert changed == ["mesh.context: 1 -> 2"]
    # What has no default cannot have been left out.
    del old["seed"]
    assert differences(with_defaults(old, settings), as_json(settings)) == ["seed: None -> 0"]


def test_devices_that_share_a_row_must_divide_it():
    settings = swe.laptop()
    settings.require_whole_places(4)
    odd = dataclasses.replace(settings, sft=dataclasses.replace(settings.sft, row_multiple=130))
    message = (
        "config.sft.row_multiple=130 does not divide by the 4 devices along config.mesh.context"
    )
    with pytest.raises(UserError, match=message):
        odd.require_whole_places(4)


def test_a_run_computes_as_its_model_settings_have_it():
    settings = swe.laptop().model
    cfg = settings.configured(SMOLLM2_135M)
    assert cfg == dataclasses.replace(SMOLLM2_135M, matmul_precision="bfloat16")
    few = dataclasses.replace(settings, layers=4, matmul_precision="float32")
    assert few.configured(SMOLLM2_135M) == dataclasses.replace(SMOLLM2_135M, layers=4)
    assert dataclasses.replace(few, layers=99).configured(cfg).layers == SMOLLM2_135M.layers
