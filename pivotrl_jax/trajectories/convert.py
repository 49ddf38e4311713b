"""A file of trajectories in another format, and a report of what that could not hold."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import files
from pivotrl_jax.trajectories.losses import losses
from pivotrl_jax.trajectories.nemo_gym_rows import RowSettings, write_nemo_gym
from pivotrl_jax.trajectories.readers import read
from pivotrl_jax.trajectories.schema import Candidate, Trajectory
from pivotrl_jax.trajectories.summary import folded
from pivotrl_jax.trajectories.turns import EVERY_TURN, candidates
from pivotrl_jax.trajectories.writers import write_openai_chat

# The formats that can be written, by the names of their readers. Of NeMo Gym that is pivot rows.
TARGETS = ("openai_chat", "nemo_gym", "nemo_gym_pivot")


def convert(
    source: str,
    target: Path,
    fmt: str,
    to: str,
    settings: RowSettings,
    run: Path | None = None,
) -> list[str]:
    """Writes the trajectories of `source` to `target` (one of TARGETS) and reads them back.

    Bad rows go to `target` with ".quarantine.jsonl" at its end. For "nemo_gym", `run` is the work
    directory of a finished run on the same `source`: its selected pivots are written, with the
    statistics of its profile. Returns the lines of a report. Raises UserError.
    """
    quarantine = target.with_name(f"{target.name}.quarantine.jsonl")
    _check_paths(source, target, quarantine)
    trajectories, audit = read(source, fmt, quarantine)
    lines = [f"read     {audit.read} of {audit.lines} rows as {len(trajectories)} trajectories"]
    lines += folded(audit, width=8)
    if audit.quarantined:
        lines.append(f"bad      {_listed(Counter(audit.reasons))}: see {quarantine}")
    else:
        quarantine.unlink()
    if to == "openai_chat":
        write_openai_chat(trajectories, target)
        lines.append(f"wrote    {len(trajectories)} trajectories to {target}")
        skipped: Counter[str] = Counter()
        written = len(trajectories)
    else:
        written, skipped = _write_pivots(trajectories, target, settings, run)
        lines.append(f"wrote    {written} pivot rows to {target}")
    copies = read(target, to)[0] if written else []
    return [
        *lines,
        f"skipped  {_listed(skipped)}",
        f"not held {_listed(losses(trajectories, copies) + Counter(audit.unheld))}",
    ]


def selected_rewards(run: Path) -> dict[str, list[float]]:
    """The rewards of each selected candidate of a finished run, by candidate id.

    Reads `select/table.parquet` and `profile/train/samples-*.parquet`. Samples with an error have
    no reward and are left out. The ids are those of the data: a run on several domains puts theirs
    before them. Raises UserError if the files are not there, or two domains chose the same id.
    """
    try:
        table = pq.read_table(
            run / "select" / "table.parquet", columns=["candidate_id", "selected", "domain"]
        )
        chunks = sorted((run / "profile" / "train").glob("samples-*.parquet"))
        samples = pq.read_table(chunks, columns=["candidate_id", "reward"])
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run} holds no selected pivots ({error}): give the work directory of a run that has "
            "got past its select stage"
        ) from error
    chosen = table.filter(table["selected"])["candidate_id"].to_pylist()
    rewards: dict[str, list[float]] = {name: [] for name in chosen}
    for sample in samples.to_pylist():
        if sample["candidate_id"] in rewards and sample["reward"] is not None:
            rewards[sample["candidate_id"]].append(sample["reward"])
    several = len(set(table["domain"].to_pylist())) > 1
    return _without_domains(rewards, run) if several else rewards


def _without_domains(rewards: dict[str, list[float]], run: Path) -> dict[str, list[float]]:
    own = {name.partition("/")[2]: each for name, each in rewards.items()}
    if len(own) < len(rewards):
        raise UserError(
            f"two domains of {run} selected pivots of the same id: run each domain by itself, or "
            "give the trajectories of each an `id` of their own"
        )
    return own


def _check_paths(source: str, *targets: Path) -> None:
    """Raises UserError where what is written would replace what is read, or not be lines."""
    inputs = files.find(source)
    for target in targets:
        if target.is_dir():
            raise UserError(f"{target} is a directory: name a file in it")
        if target.exists() and any(target.samefile(each) for each in inputs):
            raise UserError(f"{target} is both input and output: write to another file")
        if target.suffix in files.DOCUMENTS:
            raise UserError(f"{target} would be one document: give it a name that ends in .jsonl")


def _write_pivots(
    trajectories: Sequence[Trajectory], target: Path, settings: RowSettings, run: Path | None
) -> tuple[int, Counter[str]]:
    rewards = None if run is None else selected_rewards(run)
    skipped: Counter[str] = Counter()
    chosen: list[tuple[Trajectory, Candidate]] = []
    for each in trajectories:
        found, left_out = candidates(each, EVERY_TURN, "train")
        skipped += left_out
        for candidate in found:
            if rewards is None or candidate.id in rewards:
                chosen.append((each, candidate))
            else:
                skipped["not_selected"] += 1
    written, refused = write_nemo_gym(chosen, target, settings, rewards)
    if rewards is not None and not chosen:
        raise UserError(
            f"none of the {len(rewards)} selected pivots of {run} is a turn of the trajectories "
            "that were read: give the data that the run was made with"
        )
    return written, skipped + refused


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
