"""PivotRL on software-engineering agents: mini-swe-agent and SWE-agent trajectories.

    python -m experiments.run --config=experiments/swe.py            # :laptop
    python -m experiments.run --config=experiments/swe.py:smoke
    python -m experiments.run --config=experiments/swe.py:host --config.data.path=DIR
    python -m experiments.run --config=experiments/swe.py:pod --config.data.path=DIR

preset   hardware                    time        what comes out
smoke    2 CPU cores, 10 GiB         2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         13 minutes  the table in README.md
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses

import ml_collections

from experiments import presets
from experiments.settings import DataSettings, RewardSettings, Settings, TextSettings
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_TARGET, SAME_TOOL

replace = dataclasses.replace


def laptop() -> Settings:
    """Observations are clipped so that several turns fit a short trunk."""
    return presets.laptop(
        "swe",
        DataSettings(path="experiments/data/swe", limit=48),
        TextSettings(
            action_format="fenced_bash",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=48,
            clip_task=192,
        ),
        RewardSettings(verifier="command", recipe=SAME_TARGET),
    )


def smoke() -> Settings:
    """Any command with the expert's program is right."""
    base = laptop()
    data = replace(base.data, path="experiments/data/swe/swebench*", limit=8)
    return presets.smoke(base, data, Recipe("same_program", (("program", 1.0),)))


def host() -> Settings:
    """Observations to 8k tokens, trunks to 16k."""
    text = TextSettings(
        action_format="hermes",
        tool_role="tool",
        trunk_tokens=16_384,
        clip_observation=8_192,
        clip_task=8_192,
    )
    return presets.host(laptop(), text)


def pod() -> Settings:
    """The paper's: tool names only, nothing clipped."""
    base = host()
    text = replace(
        base.text, trunk_tokens=32_768, clip_observation=None, clip_task=None, reasoning="keep"
    )
    reward = RewardSettings(verifier="tool_name", recipe=SAME_TOOL)
    return replace(presets.pod(base, text), reward=reward)


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
