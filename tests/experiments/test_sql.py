"""The presets of interactive SQL fit their data."""

from collections import Counter

import numpy as np
import pytest

from experiments import sql
from pivotrl_jax.objectives import compile_recipe, rewards
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import (
    SWE_TURN,
    Action,
    Context,
    ToolCall,
    candidates,
    group,
    read,
    split,
)
from pivotrl_jax.verifiers import verifier


def test_no_database_stands_on_both_sides() -> None:
    settings = sql.laptop()
    sessions, _ = read(settings.data.path, limit=settings.data.limit)
    groups = {session.id: group(session, settings.data.split_by) for session in sessions}
    parts = split(groups.values(), settings.data.heldout_share, settings.seed)
    assert Counter(parts.values()) == {"train": 12, "heldout": 3}
    turns = Counter(
        candidate.split
        for session in sessions
        for candidate in candidates(session, SWE_TURN, parts[groups[session.id]])[0]
    )
    assert turns["train"] > turns["heldout"] > 60


@pytest.mark.parametrize(
    ("sampled", "reward"),
    [
        ("SELECT COUNT(Singer_ID) FROM singer", 1.0),
        ("SELECT COUNT(*) FROM singer s JOIN singer_in_concert c ON 0 = 1", 0.0),
        ("SELECT 6", 0.0),
        ("SELECT COUNT(*) FROM concert", 0.0),
    ],
)
def test_the_recipe_pays_for_the_result_that_was_looked_up(sampled: str, reward: float) -> None:
    settings = sql.laptop().reward
    verify = verifier(settings.verifier, settings.databases)
    expert, own = (
        Action("", (ToolCall("sql", {"query": query}),))
        for query in ("SELECT COUNT(*) FROM singer", sampled)
    )
    verdict = verify(expert, ParsedAction(own), Context(facts={"db": "concert_singer"}))
    criteria = np.array([[[verdict.criteria[name] for name in verify.criteria]]], np.float32)
    recipe = compile_recipe(settings.recipe, verify.criteria)
    assert rewards(criteria, np.array([[True]]), recipe).item() == reward
