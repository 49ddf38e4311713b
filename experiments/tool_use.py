"""PivotRL on conversational tool use: API-Bank, BFCL and tau2-bench dialogues.

    python -m experiments.run --config=experiments/tool_use.py            # :laptop
    python -m experiments.run --config=experiments/tool_use.py:smoke
    python -m experiments.run --config=experiments/tool_use.py:host
    python -m experiments.run --config=experiments/tool_use.py:pod

preset   hardware                    time        what comes out
smoke    2 CPU cores, 10 GiB         2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         25 minutes  figures for dialogues that were never trained on
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses

import ml_collections

from experiments import presets
from experiments.settings import DataSettings, RewardSettings, Settings, TextSettings
from pivotrl_jax.trajectories import TurnRule
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_CALL

replace = dataclasses.replace


def laptop() -> Settings:
    """API-Bank: short dialogues with the schemas of the tools that they use."""
    return presets.laptop(
        "tool_use",
        DataSettings(
            path="experiments/data/tool_use/apibank_dialogues.jsonl.gz",
            limit=80,
            turns=TurnRule("tool_use", succeeded=True),
        ),
        TextSettings(
            action_format="smollm2",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=96,
            clip_task=None,
        ),
        RewardSettings(verifier="tool_call", recipe=SAME_CALL),
    )


def smoke() -> Settings:
    """Any call where the expert calls, any message where it speaks."""
    base = laptop()
    return presets.smoke(base, replace(base.data, limit=12), Recipe("same_kind", (("kind", 1.0),)))


def host() -> Settings:
    """tau2-bench: retail, airline and telecom with their policies and all tools."""
    base = laptop()
    data = replace(base.data, path="experiments/data/tool_use/tau2_*.jsonl.gz")
    text = TextSettings(
        action_format="hermes",
        tool_role="tool",
        trunk_tokens=16_384,
        clip_observation=4_096,
        clip_task=None,
        thinking=False,
    )
    return presets.host(replace(base, data=data), text)


def pod() -> Settings:
    """Nothing clipped."""
    base = host()
    text = replace(
        base.text, trunk_tokens=32_768, clip_observation=None, reasoning="keep", thinking=None
    )
    return presets.pod(base, text)


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
