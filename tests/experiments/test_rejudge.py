"""A profile under another verifier: verdicts are counted, differences written down."""

import pytest

from experiments.rejudge import _recipe, main, table
from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers import verifier


def row(candidate: str, reward: float | None, other: float | None) -> dict:
    return {"candidate_id": candidate, "reward": reward, "other_reward": other}


def test_verdicts_and_mixed_candidates_are_counted() -> None:
    rows = [row("a", 1, 1), row("a", 0, 1), row("b", 0, 0), row("b", None, 1), row("b", 0, 0)]
    lines = table(rows).splitlines()
    assert lines[2] == "| accepts | 1 | 0 | 0 |"
    assert lines[3] == "| rejects | 1 | 2 | 0 |"
    assert lines[4] == "| no verdict | 1 | 0 | 0 |"
    assert lines[-1] == "mixed candidates: 1 and 1 of 2"


@pytest.mark.parametrize(
    ("stated", "said"), [("exact", "no list"), ("exact=x", "no list"), ("exakt=1", "judges well")]
)
def test_a_wrong_recipe_is_refused(stated: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        _recipe(verifier("command"), stated)


def test_a_recipe_is_read() -> None:
    assert _recipe(verifier("command"), "exact=1,targets=0.5").accept == (
        ("exact", 1.0),
        ("targets", 0.5),
    )
    assert _recipe(verifier("tool_args"), None).graded == "reward"


def test_a_run_without_a_profile_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no finished profile"):
        main([f"--workdir={tmp_path}", "--verifier=command"])
