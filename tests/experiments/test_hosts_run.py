"""Two processes share a work directory: one writes, both know; and they must agree."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from experiments import swe
from experiments.context import Run
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.stages.rollouts import fingerprint
from pivotrl_jax.models import logical_axes, shapes
from pivotrl_jax.models.pretrained import resolve
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings
from pivotrl_jax.pivots import read_samples

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("hosts_worker.py")


@pytest.fixture(scope="module")
def pair(small_model: Path, meeting_point: Callable[[], str]) -> Iterator[Callable]:
    """Runs two workers with two devices each; exit codes, outputs and errors."""
    started: list[subprocess.Popen[str]] = []

    def pair(workdir: Path, seeds: tuple[int, int]) -> list[tuple[int, str, str]]:
        given = {"coordinator": meeting_point(), "processes": 2, "seeds": seeds}
        given |= {"workdir": str(workdir), "model": str(small_model)}
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
        devices = {"XLA_FLAGS": flags}
        own = [
            subprocess.Popen(
                [sys.executable, str(WORKER), json.dumps(given | {"process": process})],
                cwd=ROOT,
                env=os.environ | devices | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in (0, 1)
        ]
        started.extend(own)
        said = [process.communicate(timeout=300) for process in own]
        return [(process.returncode, *words) for process, words in zip(own, said, strict=True)]

    yield pair
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory) -> tuple[Path, list[dict]]:
    workdir = tmp_path_factory.mktemp("pair") / "run"
    ended = pair(workdir, (0, 0))
    assert [code for code, *_ in ended] == [0, 0], [err[-900:] for *_, err in ended]
    return workdir, [json.loads(out.splitlines()[-1]) for _, out, _ in ended]


def without(found: dict, *names: str) -> dict:
    return {name: value for name, value in found.items() if name not in names}


def test_both_processes_know_what_one_has_written(finished) -> None:
    workdir, (first, second) = finished
    assert first["written"] > 5
    assert second["written"] == 0
    assert without(first, "written", "rendered") == without(second, "written", "rendered")
    table = pq.read_table(workdir / "candidates/candidates.parquet")
    assert set(first["turns"]) == set(table["candidate_id"].to_pylist())
    assert first["samples"] == read_samples(workdir / "store").num_rows == 2
    timing = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in timing] == ["read", "candidates"]
    assert not list(workdir.glob(".shared-*"))


def test_each_process_renders_its_part_of_the_data(finished, small_model, tmp_path) -> None:
    first, second = (own["rendered"] for own in finished[1])
    base = swe.smoke()
    settings = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, name=str(small_model)),
        data=dataclasses.replace(base.data, limit=4),
    )
    run = Run(settings, tmp_path, make_mesh(MeshSettings()))
    trajectories = read_stage(run)
    ids = [trajectory.id for trajectory in trajectories["swe"]]
    assert (first, second) == (ids[::2], ids[1::2])
    alone = candidates_stage(run, trajectories)
    assert [trunk.tolist() for trunk in alone.trunks] == finished[1][0]["trunks"]
    turns = [turn.id for own in alone.turns.values() for turn in own]
    assert turns == finished[1][0]["turns"]


def test_the_exported_policy_has_the_bits_of_the_one_that_was_read(finished, small_model) -> None:
    ours = load_file(finished[0] / "policy/model.safetensors")
    theirs = load_file(small_model / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_array_equal(ours[name], expected)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_policys_fingerprint_is_that_of_one_process(finished, small_model, devices) -> None:
    model = resolve(str(small_model))
    mesh = make_mesh(MeshSettings(), jax.devices()[:devices])
    layout = shardings(shapes(model.cfg), logical_axes(model.cfg), mesh)
    policy = model.load(layout)
    assert fingerprint(policy) == finished[1][0]["fingerprint"]
    # Two values that change places, a value of the other sign, and one bit.
    embed = np.asarray(policy.embed)
    swapped, turned, other = embed.copy(), embed.copy(), embed.copy()
    swapped[0, 0], swapped[0, 1] = embed[0, 1], embed[0, 0]
    turned[3] = -turned[3]
    other[5, 7] = np.nextafter(other[5, 7], np.float32(9))
    for changed in (swapped, turned, other):
        assert fingerprint(policy.replace(embed=changed)) != finished[1][0]["fingerprint"]


def test_processes_with_other_settings_are_told_so(pair, tmp_path: Path) -> None:
    ended = pair(tmp_path / "run", (0, 5))
    assert [code for code, *_ in ended] == [1, 1]
    words = "process 1 was started with other settings than process 0 (seed: 0 -> 5); give all"
    for _, _, err in ended:
        assert words in err
        assert "Traceback" not in err
    assert not (tmp_path / "run/config.json").exists()
