"""A plan by the real compiler, as the command makes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_plan_of_an_update_for_a_tpu_slice(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    fields = {"model.layers": 2, "model.dtype": "bfloat16", "objective.kl_coef": 0.0}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.compile", "--config=experiments/swe.py:smoke"),
            *("--topology=v5e:2x2", "--steps=update", "--action_tokens=64", f"--json={path}"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    plan = json.loads(path.read_text())
    (step,) = plan["steps"]
    # Two layers and the embedding: in bfloat16, and three times in float32, a quarter of it here.
    layer = 576 * (2 * 576 + 2 * 192) + 3 * 576 * 1536
    whole = 49_152 * 576 + 2 * layer
    assert step["memory"]["arguments"] == pytest.approx((2 + 3 * 4) * whole / 4, rel=0.06)
    assert step["missing"] == 0
    assert step["work"]["compiler"] > 0
    assert step["work"]["kernels"] > 0
    assert {exchange["kind"] for exchange in step["work"]["exchanges"]} >= {"all-gather"}
    assert not step["work"]["unknown_kernels"]
    assert f"{plan['model']} on v5e:2x2" in done.stdout
