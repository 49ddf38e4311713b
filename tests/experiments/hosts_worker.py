"""The first stages and an export as one of several processes, for test_hosts_run.py.

The argument is JSON: `coordinator`, `processes`, `process`, `workdir`, `model`, `seeds` by process.
The last line of its output is what it found, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from absl import logging

from experiments import swe
from experiments.config import from_config, to_config
from experiments.context import claim, open_run
from experiments.run import friendly, stage
from experiments.settings import Settings
from experiments.stages import candidates
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.stages.rollouts import fingerprint
from experiments.stages.updates import export_stage
from pivotrl_jax.parallel import start
from pivotrl_jax.pivots import ProfileStore

ROWS = [
    {
        "candidate_id": name, "sample": 0, "tokens": [1, 2], "text": "ls", "length": 2,
        "drafted": 0, "truncated": False, "malformed": False, "logp": -1.0, "criteria": "{}",
        "reason": "", "error": None, "reward": 1.0,
    }
    for name in ("a", "b")
]  # fmt: skip


def settings(given: dict[str, Any]) -> Settings:
    config = to_config(swe.smoke())
    config.model.name = given["model"]
    config.data.limit = 4
    config.seed = given["seeds"][given["process"]]
    return from_config(Settings, config)


def written(workdir: Path) -> list[str]:
    """Fills up with the files below `workdir` that this process's Python writes."""
    found: list[str] = []

    def hear(event: str, arguments: tuple) -> None:
        new = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax"
        if (new or event == "os.rename") and str(arguments[0]).startswith(str(workdir)):
            found.append(str(arguments[0]))

    sys.addaudithook(hear)
    return found


def main(given: dict[str, Any]) -> None:
    logging.set_verbosity(logging.WARNING)
    start(given["coordinator"], given["processes"], given["process"])
    workdir = Path(given["workdir"])
    files = written(workdir)
    run = open_run(settings(given), workdir)
    with jax.set_mesh(run.mesh):
        with stage(run, "read", None):
            trajectories = read_stage(run)
        with stage(run, "candidates", None):
            with mock.patch.object(candidates, "render", wraps=candidates.render) as render:
                corpus = candidates_stage(run, trajectories)
            claim(run)
        store = ProfileStore(workdir / "store", {"of": "nothing"})
        store.append(ROWS)
        policy = run.base_params()
        export_stage(run, policy)
        found = {
            "turns": [turn.id for own in corpus.turns.values() for turn in own],
            "samples": store.read().num_rows,
            "fingerprint": fingerprint(policy),
            "trunks": [trunk.tolist() for trunk in corpus.trunks],
            "written": len(files),
            "rendered": [call.args[0].id for call in render.call_args_list],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    arguments = json.loads(sys.argv.pop())
    sys.argv.append("--config=experiments/swe.py:smoke")
    friendly(lambda argv: main(arguments))
