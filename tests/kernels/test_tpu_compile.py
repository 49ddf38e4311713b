"""The kernels compile for four TPU generations, within the memory they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def compile_on(topology: str, *ops: str) -> dict[str, float]:
    """Megabytes of temporary memory by op."""
    jobs = [f"{topology}/{op}" for op in ops]
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.tpu_compile", *jobs],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            # Test processes beside this one compile too; nobody opens a TPU.
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    return {row["op"]: row["temp_mib"] for row in rows}


def test_v5e_needs_no_room_for_logits():
    """The dense form takes 2,374 MiB for the gradient."""
    ops = ("linear_logprob", "linear_logprob_gradient", "grpo_gradient")
    temp_mib = compile_on("v5e:2x4", *ops)
    assert temp_mib["linear_logprob"] <= 20
    assert temp_mib["linear_logprob_gradient"] <= 64
    assert temp_mib["grpo_gradient"] <= 64


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x4", "tpu7x:2x2x1"])
def test_compiles_for_other_generations(topology):
    """Their compilers keep up to five blocks of 4,096 vocabulary rows for the gradient, where v5e's
    keeps half of one."""
    temp_mib = compile_on(topology, "linear_logprob", "linear_logprob_gradient")
    assert temp_mib["linear_logprob"] <= 20
    assert temp_mib["linear_logprob_gradient"] <= 320


def test_products_of_groups_need_no_room_for_all_pairs_of_rows_and_groups():
    """They would take 2,048 MiB. A few rows, which no tile divides, compile as well."""
    temp_mib = compile_on("v5e:2x4", "grouped_dot_gradient", "grouped_dot_of_few")
    assert temp_mib["grouped_dot_gradient"] <= 8
    assert temp_mib["grouped_dot_of_few"] <= 1


@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x1", "v6e:2x4", "tpu7x:2x2x1"])
def test_tree_attention_needs_no_room_for_scores(topology):
    """In training they would take 1,024 MiB, in decoding 16 MiB."""
    temp_mib = compile_on(topology, "tree_attention_gradient", "tree_decode")
    assert temp_mib["tree_attention_gradient"] <= 64
    assert temp_mib["tree_decode"] <= 8
