"""The first two stages: expert files to trajectories, trajectories to turns of token trunks."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.artifacts import write_json, write_table
from experiments.context import Run
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import divided, first
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

SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Trunks, and the turns on them that may be sampled, by split."""

    trunks: Sequence[np.ndarray]
    turns: Mapping[Split, list[Turn]]
    table: pa.Table


@dataclasses.dataclass(frozen=True, eq=False)
class _Rendered:
    """One trajectory: its trunks, the candidates on them, and the turns left out by reason."""

    domain: str
    trajectory: Trajectory
    trunks: Sequence[np.ndarray]
    kept: Sequence[tuple[Candidate, Turn]]
    left_out: Counter[str]
    clipped_tokens: int


def read_stage(run: Run) -> dict[str, list[Trajectory]]:
    """Reads the expert files of every domain: counts to audit.json, bad rows to quarantine.jsonl.

    Both are in read/, or in read/<domain>/ where there are several.
    """
    found = {name: _read(run, name) for name in run.domains}
    # Runs that began alike are one task, whatever the source calls them.
    joined = iter(join_tasks([each for own in found.values() for each in own]))
    return {name: list(itertools.islice(joined, len(own))) for name, own in found.items()}


def _read(run: Run, name: str) -> list[Trajectory]:
    data, several = run.domains[name].settings.data, len(run.domains) > 1
    directory = run.workdir / "read" / (name if several else "")
    directory.mkdir(parents=True, exist_ok=True)
    quarantine = directory / "quarantine.jsonl" if first() else None
    trajectories, audit = read(data.path, data.format, quarantine, data.limit)
    write_json(directory / "audit.json", dataclasses.asdict(audit))
    if not several:
        return trajectories
    # Ids are unique within a domain only.
    return [
        dataclasses.replace(t, id=f"{name}/{t.id}", task_id=f"{name}/{t.task_id}")
        for t in trajectories
    ]


def candidates_stage(run: Run, trajectories: Mapping[str, Sequence[Trajectory]]) -> Corpus:
    """Renders trajectories and keeps the turns that fit; every other turn is counted by reason.

    UserError where nothing fits, where the model has too few positions, and for leaks.
    """
    everything = [each for own in trajectories.values() for each in own]
    for name in trajectories:
        _check_positions(run, name)
    parts = _parts(run, trajectories)
    named = [(name, trajectory) for name, own in trajectories.items() for trajectory in own]
    rendered: list[_Rendered] = []
    trunks: list[np.ndarray] = []
    # Tokens are what this stage takes its time for, which hosts share.
    renderings = divided(named, lambda pair: _render(run, *pair))
    for (name, trajectory), rendering in zip(named, renderings, strict=True):
        part = parts[trajectory.id]
        rendered.append(_rendered(run, name, trajectory, part, rendering, len(trunks)))
        trunks += rendered[-1].trunks
    kept = [pair for each in rendered for pair in each.kept]
    check_disjoint([candidate for candidate, _ in kept], everything)
    turns = {part: [turn for own, turn in kept if own.split == part] for part in SPLITS}
    by_domain = {
        name: _audit([each for each in rendered if each.domain == name]) for name in trajectories
    }
    for name, counts in by_domain.items():
        for part, count in counts["by_split"].items():
            if not count:
                text = f"{run.settings.path(name)}.text"
                raise UserError(
                    f"no {part} candidate of {name} fits ({counts['left_out']}); raise "
                    f"{text}.trunk_tokens or config.profile.sampling.max_tokens, lower "
                    f"{text}.clip_observation, or read more trajectories"
                )
    table = pa.Table.from_pylist([_row(*pair, each) for each in rendered for pair in each.kept])
    texts = [_text(run, own, each) for each in rendered for own, _ in each.kept]
    _write(run, table, texts, _audit(rendered) | {"by_domain": by_domain})
    return Corpus(trunks, turns, table)


def _parts(run: Run, trajectories: Mapping[str, Sequence[Trajectory]]) -> dict[str, Split]:
    """The part of each trajectory by its id. UserError where both parts hold the same turns."""
    parts: dict[str, Split] = {}
    part_of: dict[str, Split] = {}
    for name, own in trajectories.items():
        data = run.domains[name].settings.data
        groups = {t.id: group(t, data.split_by) for t in own}
        # What two domains share is on one side in both.
        new = {of for of in groups.values() if of not in part_of}
        if len(new) > 1 or not part_of:
            part_of |= split(sorted(new), data.heldout_share, run.settings.seed)
        else:
            part_of |= dict.fromkeys(new, "train")
        parts |= {id: part_of[of] for id, of in groups.items()}
    train, heldout = (
        [t for own in trajectories.values() for t in own if parts[t.id] == part] for part in SPLITS
    )
    check_leaks(train, heldout)
    return parts


def _check_positions(run: Run, name: str) -> None:
    tokens = run.domains[name].settings.text.trunk_tokens
    if tokens > run.cfg.max_positions:
        raise UserError(
            f"{run.settings.path(name)}.text.trunk_tokens is {tokens}, but {run.cfg.name} has "
            f"positions for {run.cfg.max_positions} tokens only; lower it"
        )


def _rendered(
    run: Run, name: str, trajectory: Trajectory, part: Split, rendering: Rendering, first: int
) -> _Rendered:
    """`first` is the number of the trajectory's first trunk."""
    found, left_out = candidates(trajectory, run.domains[name].settings.data.turns, part)
    counts = Counter(left_out)
    spans = {
        span.message: (number, span)
        for number, trunk in enumerate(rendering.trunks, start=first)
        for span in trunk.spans
    }
    kept = []
    for candidate in found:
        if candidate.message not in spans:
            counts["does_not_fit_trunk"] += 1
            continue
        trunk, span = spans[candidate.message]
        if span.end - span.start > run.settings.profile.sampling.max_tokens:
            counts["action_over_cap"] += 1
            continue
        turn = _turn(name, candidate, trajectory, trunk, span.start, span.end)
        kept.append((candidate, turn))
    trunks = [trunk.tokens for trunk in rendering.trunks]
    return _Rendered(name, trajectory, trunks, kept, counts, rendering.clipped_tokens)


def _render(run: Run, name: str, trajectory: Trajectory) -> Rendering:
    domain = run.domains[name]
    text = domain.settings.text
    return render(
        trajectory,
        run.tokenizer,
        domain.template,
        domain.fmt,
        Clip(text.clip_observation, text.clip_task),
        text.trunk_tokens,
        RenderSettings(text.tool_role, text.reasoning),
    )


def _turn(
    domain: str, candidate: Candidate, trajectory: Trajectory, trunk: int, start: int, end: int
) -> Turn:
    expert = trajectory.messages[candidate.message].action
    return Turn(
        candidate.id,
        candidate.trajectory_id,
        domain,
        candidate.turn,
        trunk,
        start,
        end,
        expert,
        trajectory.before(candidate.message),
    )


def _row(candidate: Candidate, turn: Turn, rendered: _Rendered) -> dict[str, object]:
    trajectory = rendered.trajectory
    return {
        "candidate_id": candidate.id,
        "trajectory_id": trajectory.id,
        "task_id": trajectory.task_id,
        "turn": candidate.turn,
        "message": candidate.message,
        "trunk": turn.trunk,
        "split": candidate.split,
        "domain": rendered.domain,
        "source": trajectory.source,
        "history_tokens": turn.start,
        "action_tokens": turn.end - turn.start,
    }


def _text(run: Run, candidate: Candidate, rendered: _Rendered) -> dict[str, object]:
    fmt, messages = run.domains[rendered.domain].fmt, rendered.trajectory.messages
    history = [to_chat(message, fmt) for message in messages[: candidate.message]]
    expert = fmt.print(messages[candidate.message].action)
    return {"candidate_id": candidate.id, "history": history, "expert": expert}


def _audit(rendered: Sequence[_Rendered]) -> dict[str, Any]:
    kept = [pair for each in rendered for pair in each.kept]
    trunks = [trunk for each in rendered for trunk in each.trunks]
    turns = (
        message.role == "assistant" for each in rendered for message in each.trajectory.messages
    )
    splits = Counter(candidate.split for candidate, _ in kept)
    return {
        "turns": sum(turns),
        "candidates": len(kept),
        "by_split": {part: splits[part] for part in SPLITS},
        "left_out": dict(sum((each.left_out for each in rendered), Counter())),
        "clipped_tokens": sum(each.clipped_tokens for each in rendered),
        "trunks": len(trunks),
        "trunk_tokens": sum(map(len, trunks)),
        # What the candidates would take in rows of their own: the sharing that trunks achieve.
        "flat_tokens": sum(turn.end for _, turn in kept),
    }


def _write(run: Run, table: pa.Table, texts: Iterable[dict], audit: dict) -> None:
    directory = run.workdir / "candidates"
    write_table(directory / "candidates.parquet", table)
    if first():
        with (directory / "candidates_text.jsonl").open("w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps(text, ensure_ascii=False) + "\n")
    write_json(directory / "audit.json", audit)
