"""The report of a run whose policies played whole episodes and answered questions."""

import json
import re
from pathlib import Path

import pytest

from experiments import report
from experiments.reports.data import load
from experiments.reports.markdown import markdown
from experiments.reports.play import episode_rows, suite_rows, win_figures
from experiments.reports.verdict import sentences

RATES = {"base": 0.1, "sft": 0.4, "pivotrl": 0.55}


def around(mean: float, half: float = 0.05) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def played(rate: float) -> dict:
    return {
        "win_rate": around(rate), "score": around(rate + 0.1), "episodes": 40, "turns": 12.34,
        "tokens": 99.6, "malformed_share": 0.02, "invalid_share": 0.3,
        "endings": {"done": rate, "turns": 1 - rate, "tokens": 0.0, "truncated": 0.0},
    }  # fmt: skip


@pytest.fixture
def games(workdir: Path) -> Path:
    for name, rate in RATES.items():
        path = workdir / f"evaluate/{name}.json"
        against = {
            other: {
                "episodes": {"greedy": around(rate - before), "sampled": around(0.01)},
                "suites": {"gcd": around(-0.2), "sorting": around(0), "mean": around(-0.1)},
            }
            for other, before in RATES.items()
            if other != name
        }
        scores = {
            "episodes": {"greedy": played(rate), "sampled": played(rate / 2)},
            "suites": {"gcd": around(0.5), "sorting": around(0.7), "mean": around(0.6)},
            "against": against,
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | scores))
    return workdir


def test_episodes_and_suites_have_their_rows(games):
    run = load(games)
    rows = {(policy, mode): cells for policy, mode, *cells in episode_rows(run)}
    assert rows["PivotRL", "greedy"] == [
        "0.550 [0.500, 0.600]", "0.650", "12.3", "100", "2%", "30%",
        "55% done, 45% out of turns",
    ]  # fmt: skip
    assert rows["SFT", "sampled"][0] == "0.200 [0.150, 0.250]"
    suites = dict(suite_rows(run))
    assert list(suites) == ["gcd", "sorting", "mean", "mean − Base"]
    assert suites["gcd"] == ["0.500 [0.450, 0.550]"] * 3
    assert suites["mean − Base"] == ["–"] + ["−0.100 [−0.150, −0.050]"] * 2


def test_the_verdict_is_on_win_rates(games):
    lead, sft, *others = sentences(load(games).policies)
    assert lead == (
        "PivotRL changed the win rate against SFT by +0.150 [0.100, 0.200] greedy (better, zero "
        "lies outside the 95\N{NO-BREAK SPACE}% interval) and by +0.010 [−0.040, 0.060] sampled "
        "(not distinguishable from zero at this size); tasks are paired."
    )
    assert sft.startswith("SFT changed the win rate against Base by +0.300")
    assert others[0].startswith("PivotRL changed held-out reward")
    assert others[-1].startswith(
        "Retention: PivotRL changed out-of-domain accuracy by −0.100 [−0.150, −0.050] against "
        "Base: worse"
    )
    assert "mean of 2 suites" in others[-1]


def test_end_to_end_is_the_last_policy(games):
    policies = load(games).policies
    end = policies["pivotrl"] | {
        "against": {"pivotrl": {"episodes": {"greedy": around(-0.2)}}, "base": {}}
    }
    lead, second, *_ = sentences(policies | {"end_to_end": end})
    assert lead.startswith("End-to-end changed the win rate against PivotRL by −0.200")
    assert second.startswith("PivotRL changed the win rate against SFT")
    alone = {"base": policies["base"], "end_to_end": end}
    assert not [text for text in sentences(alone) if "has not been evaluated" in text]


def test_the_pages_show_them(games):
    html, text = report.write(games).read_text(), markdown(load(games))
    for page in (re.sub(r"<[^>]*>", "|", html), text):
        for words in ("0.550 [0.500, 0.600]", "55% done, 45% out of turns", "sorting",
                      "−0.100 [−0.150, −0.050]", "PivotRL changed the win rate"):  # fmt: skip
            assert words in page
    assert html.count("Whole episodes, ") == 4  # a caption and a label for each of two figures
    greedy, sampled = win_figures(load(games))
    assert (greedy.title, sampled.title) == ("Whole episodes, greedy", "Whole episodes, sampled")


def test_a_run_that_played_nothing_has_no_such_part(workdir):
    run = load(workdir)
    assert not [*episode_rows(run), *suite_rows(run), *win_figures(run)]
    page = report.write(workdir).read_text() + markdown(run)
    assert "Whole episodes" not in page
    assert "Out-of-domain questions" not in page
