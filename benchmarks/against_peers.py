"""The same model, pivots, K and caps through pivotrl_jax, TRL and Tunix.

    python -m benchmarks.against_peers [--quick] [--venvs DIR] [--json FILE]

Each side is a process of its own. A peer gets a virtual environment under `--venvs` (a temporary
directory by default; a kept one is used again) with the pinned packages below; nothing is installed
beside pivotrl_jax. A peer that does not install or run is reported with the reason. Rewards are
made up and there is no KL penalty; all run on the CPU in float32. An update is forward, backward
and optimiser over all samples of all pivots; sampling is counted apart.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import profile
from benchmarks.command import parser
from benchmarks.command import run as run_benchmark
from benchmarks.table import Row, report
from experiments.context import Run, open_run
from experiments.stages.candidates import Corpus, candidates_stage, read_stage
from pivotrl_jax.models import huggingface
from pivotrl_jax.pivots import Turn

WORKERS = Path(__file__).parent / "peers"
INSTALLED = "installed.txt"
MEMORY_SHARE = 0.85  # of the machine's, for one side
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


@dataclasses.dataclass(frozen=True)
class Peer:
    """`requirements` are installed in this order, each with the options it needs."""

    worker: str
    requirements: Sequence[Sequence[str]]


PEERS = {
    # torch first and pinned, so that trl finds it installed.
    "trl": Peer(
        "trl_worker.py",
        (("torch==2.13.0",), ("trl==1.16.0", "transformers==5.23.0")),
    ),
    "tunix": Peer("tunix_worker.py", (("google-tunix==0.1.7", "jax==0.10.2"),)),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """Trajectories, pivots of each, samples per pivot, token cap, steps (the first warms up)."""

    trajectories: int
    pivots: int
    samples: int
    max_tokens: int
    steps: int


FULL = Size(trajectories=2, pivots=3, samples=8, max_tokens=96, steps=3)
QUICK = Size(trajectories=1, pivots=1, samples=2, max_tokens=8, steps=2)

COLUMNS = (
    "side", "version", "pivots", "samples", "max_tokens", "prompt_tokens", "action_tokens",
    "seconds_candidate", "seconds_update", "seconds_step", "peak_rss_mib", "candidate_ratio",
    "update_ratio", "step_ratio", "memory_ratio", "note",
)  # fmt: skip


class Failed(Exception):
    """A side could not be installed or run; the message is the reason."""


def job(run: Run, corpus: Corpus, size: Size, directory: Path) -> dict[str, Any]:
    """Exports the model and writes down what every side has to do."""
    model = run.pretrained
    files, eot = model.tokenizer_files, model.tokenizer.eot
    huggingface.save(directory, run.base_params(), run.cfg, files, eot)
    rows = profile.trees(corpus.turns["train"], size.trajectories, size.pivots)
    chosen: list[Turn] = [turn for _, part in rows for turn in part]
    places = {trunk: place for place, (trunk, _) in enumerate(rows)}
    histories = [corpus.trunks[turn.trunk][: turn.start] for turn in chosen]
    return {
        "model": str(directory),
        "trunks": [corpus.trunks[trunk].tolist() for trunk, _ in rows],
        "turns": [(places[turn.trunk], turn.start, turn.end) for turn in chosen],
        "prompts": [run.tokenizer.decode(tokens.tolist()) for tokens in histories],
        "samples": size.samples,
        "max_tokens": size.max_tokens,
        "steps": size.steps,
        "learning_rate": 1e-6,
        "memory_bytes": int(
            MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        ),
    }


def python_of(name: str, peer: Peer, venvs: Path) -> Path:
    """The interpreter of a peer's environment, made if it is not there; Failed with pip's words."""
    directory = venvs / name
    python, marker = directory / "bin" / "python", directory / INSTALLED
    wanted = "\n".join(" ".join(group) for group in peer.requirements)
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return python
    call([sys.executable, "-m", "venv", "--clear", str(directory)])
    for group in peer.requirements:
        call([str(python), *PIP, *group])
    marker.write_text(wanted, encoding="utf-8")
    return python


def call(command: Sequence[str]) -> None:
    """Runs a command; Failed with the last line it wrote."""
    # Peers must neither see this project's packages nor reach for a model hub; all stay on the CPU.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    fixed = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept | fixed)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(lines[-1])


def result(command: Sequence[str], scratch: Path, work: dict[str, Any]) -> dict[str, Any]:
    """What a worker wrote about the job."""
    asked, answer = scratch / "job.json", scratch / "result.json"
    asked.write_text(json.dumps(work), encoding="utf-8")
    answer.unlink(missing_ok=True)
    call([*command, str(asked), str(answer)])
    return json.loads(answer.read_text(encoding="utf-8"))


def row(side: str, size: Size, work: dict[str, Any], found: dict[str, Any]) -> Row:
    """Medians of one side; no ratios yet."""
    sampling, update = (statistics.median(found[f"seconds_{x}"]) for x in ("sampling", "update"))
    pivots = len(work["turns"])
    return {
        "side": side,
        "version": found["version"],
        "pivots": pivots,
        "samples": size.samples,
        "max_tokens": size.max_tokens,
        "prompt_tokens": found["prompt_tokens"],
        "action_tokens": float(found["action_tokens"]),
        "seconds_candidate": sampling / pivots,
        "seconds_update": update,
        "seconds_step": sampling + update,
        "peak_rss_mib": found["peak_rss_mib"],
    }


def compared(theirs: Row, ours: Row) -> Row:
    """With how many times our seconds and memory a side takes."""
    pairs = {
        "candidate_ratio": "seconds_candidate",
        "update_ratio": "seconds_update",
        "step_ratio": "seconds_step",
        "memory_ratio": "peak_rss_mib",
    }
    return theirs | {name: theirs[column] / ours[column] for name, column in pairs.items()}


def rows(work: dict[str, Any], size: Size, scratch: Path, venvs: Path) -> Iterator[Row]:
    own = [sys.executable, "-m", "benchmarks.peers.own_worker"]
    ours = row("pivotrl_jax", size, work, result(own, scratch, work))
    yield compared(ours, ours)
    for name, peer in PEERS.items():
        try:
            command = [str(python_of(name, peer, venvs)), str(WORKERS / peer.worker)]
            yield compared(row(name, size, work, result(command, scratch, work)), ours)
        except Failed as failure:
            yield {"side": name, "note": str(failure)}


def main() -> None:
    options = parser("against_peers", __doc__)
    options.add_argument("--model", help="as --config.model.name of a run takes it")
    options.add_argument("--venvs", type=Path, help="where the peers' environments are kept")
    options.add_argument("--samples", type=int, help="K; a peer may lack memory for 8")
    given = options.parse_args()
    size = QUICK if given.quick else FULL
    size = dataclasses.replace(
        size,
        samples=given.samples or size.samples,
        steps=given.rounds + 1 if given.rounds else size.steps,
    )
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        run = open_run(profile.settings(given.model, quick=False), scratch / "run")
        work = job(run, candidates_stage(run, read_stage(run)), size, scratch / "model")
        found = rows(work, size, scratch, given.venvs or scratch / "venvs")
        report("against_peers", {"Ratios are theirs over ours": COLUMNS}, found, given.json)


if __name__ == "__main__":
    run_benchmark(main)
