"""PivotRL on interactive SQL: InterCode sessions, and a verifier that runs the commands.

    python -m experiments.run --config=experiments/sql.py            # :laptop
    python -m experiments.run --config=experiments/sql.py:smoke
    python -m experiments.run --config=experiments/sql.py:host
    python -m experiments.run --config=experiments/sql.py:pod

preset   hardware                    time        what comes out
smoke    2 CPU cores, 10 GiB         2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         30 minutes  figures for schemas that were never trained on
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet (mixture of experts is still to come)
"""

import dataclasses

import ml_collections

from experiments import presets
from experiments.settings import DataSettings, RewardSettings, Settings, TextSettings
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_RESULT

replace = dataclasses.replace


def laptop() -> Settings:
    """Whole sessions fit a row, long results are clipped."""
    return presets.laptop(
        "sql",
        DataSettings(path="experiments/data/sql/*.jsonl.gz", limit=120, split_by="db"),
        TextSettings(
            action_format="fenced_sql",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=96,
            clip_task=192,
        ),
        RewardSettings(
            verifier="sql",
            recipe=SAME_RESULT,
            databases="experiments/data/sql/intercode_spider_sqlite.tar.gz",
        ),
    )


def smoke() -> Settings:
    """Any command of the expert's kind is right."""
    base = laptop()
    return presets.smoke(base, replace(base.data, limit=24), Recipe("same_kind", (("kind", 1.0),)))


def host() -> Settings:
    """Results to 2k tokens."""
    text = TextSettings(
        action_format="hermes",
        tool_role="tool",
        trunk_tokens=8_192,
        clip_observation=2_048,
        clip_task=None,
    )
    return presets.host(laptop(), text)


def pod() -> Settings:
    """Nothing clipped."""
    base = host()
    text = replace(base.text, trunk_tokens=16_384, clip_observation=None, reasoning="keep")
    return presets.pod(base, text)


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
