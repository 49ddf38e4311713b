"""PivotRL on web search: ReAct trajectories that search and finish (FireAct), and WebDancer's.

    python -m experiments.run --config=experiments/search.py            # :laptop
    python -m experiments.run --config=experiments/search.py:smoke
    python -m experiments.run --config=experiments/search.py:host
    python -m experiments.run --config=experiments/search.py:pod

preset   hardware                    time        what comes out
smoke    2 CPU cores, 10 GiB         2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         30 minutes  figures for questions that were never trained on
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses

import ml_collections

from experiments import presets
from experiments.settings import DataSettings, RewardSettings, Settings, TextSettings
from pivotrl_jax.trajectories import TurnRule
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_SEARCH

replace = dataclasses.replace


def laptop() -> Settings:
    """FireAct: whole trajectories are short enough, nothing is clipped."""
    return presets.laptop(
        "search",
        DataSettings(
            path="experiments/data/search/fireact_gpt4_react.jsonl.gz",
            limit=160,
            turns=TurnRule("search", one_call=True),
        ),
        TextSettings(
            action_format="react",
            tool_role="user",
            trunk_tokens=512,
            clip_observation=None,
            clip_task=None,
        ),
        RewardSettings(verifier="search", recipe=SAME_SEARCH),
    )


def smoke() -> Settings:
    """Any search where the expert searches, any answer where it answers."""
    base = laptop()
    return presets.smoke(base, replace(base.data, limit=12), Recipe("same_tool", (("name", 1.0),)))


def host() -> Settings:
    """WebDancer: searches of several queries and visits of pages, results to 4k tokens."""
    base = laptop()
    data = replace(base.data, path="experiments/data/search/webdancer*.jsonl.gz")
    text = TextSettings(
        action_format="webdancer",
        tool_role="user",
        trunk_tokens=16_384,
        clip_observation=4_096,
        clip_task=None,
    )
    return presets.host(replace(base, data=data), text)


def pod() -> Settings:
    """Nothing clipped."""
    base = host()
    text = replace(base.text, trunk_tokens=32_768, clip_observation=None, reasoning="keep")
    return presets.pod(base, text)


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
