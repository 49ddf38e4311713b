"""PivotRL on terminal control: InterCode's shell sessions, and Terminus-2's.

    python -m experiments.run --config=experiments/terminal.py            # :laptop
    python -m experiments.run --config=experiments/terminal.py:smoke
    python -m experiments.run --config=experiments/terminal.py:host
    python -m experiments.run --config=experiments/terminal.py:pod

preset   hardware                    time        what comes out
smoke    2 CPU cores, 12 GiB         3 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         40 minutes  figures for tasks that were never trained on
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses

import ml_collections

from experiments import presets
from experiments.settings import DataSettings, RewardSettings, Settings, TextSettings
from pivotrl_jax.trajectories import TurnRule
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_COMMAND, SAME_KEYSTROKES

replace = dataclasses.replace


def laptop() -> Settings:
    """InterCode-Bash: sessions are short enough, long outputs are clipped."""
    return presets.laptop(
        "terminal",
        DataSettings(path="experiments/data/terminal/intercode_bash_success.jsonl.gz"),
        TextSettings(
            action_format="fenced_bash",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=96,
            clip_task=192,
        ),
        RewardSettings(verifier="command", recipe=SAME_COMMAND),
    )


def smoke() -> Settings:
    """Any command with the expert's program is right."""
    base = laptop()
    return presets.smoke(
        base, replace(base.data, limit=24), Recipe("same_program", (("program", 1.0),))
    )


def host() -> Settings:
    """Terminus-2: answers in JSON with keystrokes, as Terminal-Bench's own agent gives them."""
    base = laptop()
    data = replace(
        base.data,
        path="experiments/data/terminal/openthoughts_terminus2_trajectories.jsonl.gz",
        turns=TurnRule("terminus"),
    )
    text = TextSettings(
        action_format="terminus",
        tool_role="user",
        trunk_tokens=16_384,
        clip_observation=4_096,
        clip_task=None,
    )
    reward = RewardSettings(verifier="terminal", recipe=SAME_KEYSTROKES)
    return presets.host(replace(base, data=data, reward=reward), text)


def pod() -> Settings:
    """Nothing clipped."""
    base = host()
    text = replace(base.text, trunk_tokens=32_768, clip_observation=None, reasoning="keep")
    return presets.pod(base, text)


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
