"""The first two stages: expert files to trajectories, trajectories to turns of token trunks."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.context import Run, write_json
from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import Turn
from pivotrl_jax.text import Clip, Rendering, RenderSettings, render
from pivotrl_jax.text.render import to_chat
from pivotrl_jax.trajectories import (
    Candidate,
    Split,
    Trajectory,
    candidates,
    check_disjoint,
    check_leaks,
    group,
    join_tasks,
    read,
    split,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Trunks, and the turns on them that may be sampled, by split."""

    trunks: Sequence[np.ndarray]
    turns: dict[str, list[Turn]]
    table: pa.Table


def read_stage(run: Run) -> list[Trajectory]:
    """Reads the expert files; bad rows go to read/quarantine.jsonl, counts to read/audit.json."""
    data = run.settings.data
    directory = run.workdir / "read"
    directory.mkdir(parents=True, exist_ok=True)
    trajectories, audit = read(data.path, data.format, directory / "quarantine.jsonl", data.limit)
    write_json(directory / "audit.json", dataclasses.asdict(audit))
    # Runs that began alike are one task, whatever the source calls them.
    return join_tasks(trajectories)


def candidates_stage(run: Run, trajectories: Sequence[Trajectory]) -> Corpus:
    """Renders trajectories and keeps the turns that fit; every other turn is counted by reason."""
    settings = run.settings
    if settings.text.trunk_tokens > run.cfg.max_positions:
        raise UserError(
            f"text.trunk_tokens is {settings.text.trunk_tokens}, but {run.cfg.name} has positions "
            f"for {run.cfg.max_positions} tokens only; lower it"
        )
    parts = _parts(run, trajectories)
    left_out: Counter[str] = Counter()
    trunks: list[np.ndarray] = []
    turns: dict[str, list[Turn]] = {"train": [], "heldout": []}
    rows, texts, kept, clipped = [], [], [], 0
    for trajectory in trajectories:
        found, skipped = candidates(trajectory, settings.data.turns, parts[trajectory.id])
        left_out.update(skipped)
        rendering = _render(run, trajectory)
        clipped += rendering.clipped_tokens
        by_message = {
            span.message: (trunk, span) for trunk in rendering.trunks for span in trunk.spans
        }
        numbers = {id(trunk): len(trunks) + i for i, trunk in enumerate(rendering.trunks)}
        trunks += [trunk.tokens for trunk in rendering.trunks]
        for candidate in found:
            if candidate.message not in by_message:
                left_out["does_not_fit_trunk"] += 1
                continue
            trunk, span = by_message[candidate.message]
            if span.end - span.start > settings.profile.sampling.max_tokens:
                left_out["action_over_cap"] += 1
                continue
            turn = _turn(candidate, trajectory, numbers[id(trunk)], span.start, span.end)
            turns[candidate.split].append(turn)
            kept.append(candidate)
            rows.append(_row(candidate, trajectory, turn))
            texts.append(_text(run, candidate, trajectory))
    check_disjoint(kept, trajectories)
    for name, own in turns.items():
        if not own:
            raise UserError(
                f"no {name} candidate fits ({dict(left_out)}); raise text.trunk_tokens or "
                "profile.sampling.max_tokens, or lower text.clip_observation"
            )
    table = pa.Table.from_pylist(rows)
    audit = {
        "turns": sum(m.role == "assistant" for t in trajectories for m in t.messages),
        "candidates": len(rows),
        "by_split": {name: len(own) for name, own in turns.items()},
        "left_out": dict(left_out),
        "clipped_tokens": clipped,
        "trunks": len(trunks),
        "trunk_tokens": sum(map(len, trunks)),
        # What the candidates would take in rows of their own: the sharing that trunks achieve.
        "flat_tokens": sum(turn.end for own in turns.values() for turn in own),
    }
    _write(run, table, texts, audit)
    return Corpus(trunks, turns, table)


def _parts(run: Run, trajectories: Sequence[Trajectory]) -> dict[str, Split]:
    """The part of each trajectory by its id. UserError where both parts hold the same turns."""
    data = run.settings.data
    groups = {t.id: group(t, data.split_by) for t in trajectories}
    part_of = split(groups.values(), data.heldout_share, run.settings.seed)
    parts = {name: part_of[own] for name, own in groups.items()}
    check_leaks(
        [t for t in trajectories if parts[t.id] == "train"],
        [t for t in trajectories if parts[t.id] == "heldout"],
    )
    return parts


def _render(run: Run, trajectory: Trajectory) -> Rendering:
    text = run.settings.text
    return render(
        trajectory,
        run.tokenizer,
        run.template,
        run.fmt,
        Clip(text.clip_observation, text.clip_task),
        text.trunk_tokens,
        RenderSettings(text.tool_role, text.reasoning),
    )


def _turn(candidate: Candidate, trajectory: Trajectory, trunk: int, start: int, end: int) -> Turn:
    expert = trajectory.messages[candidate.message].action
    return Turn(
        candidate.id,
        candidate.trajectory_id,
        trajectory.domain,
        candidate.turn,
        trunk,
        start,
        end,
        expert,
        trajectory.before(candidate.message),
    )


def _row(candidate: Candidate, trajectory: Trajectory, turn: Turn) -> dict[str, object]:
    return {
        "candidate_id": candidate.id,
        "trajectory_id": trajectory.id,
        "task_id": trajectory.task_id,
        "turn": candidate.turn,
        "message": candidate.message,
        "split": candidate.split,
        "domain": trajectory.domain,
        "source": trajectory.source,
        "history_tokens": turn.start,
        "action_tokens": turn.end - turn.start,
    }


def _text(run: Run, candidate: Candidate, trajectory: Trajectory) -> dict[str, object]:
    history = [to_chat(m, run.fmt) for m in trajectory.messages[: candidate.message]]
    expert = run.fmt.print(trajectory.messages[candidate.message].action)
    return {"candidate_id": candidate.id, "history": history, "expert": expert}


def _write(run: Run, table: pa.Table, texts: list[dict], audit: dict) -> None:
    directory = run.workdir / "candidates"
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, directory / "candidates.parquet")
    with (directory / "candidates_text.jsonl").open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(text, ensure_ascii=False) + "\n")
    write_json(directory / "audit.json", audit)
