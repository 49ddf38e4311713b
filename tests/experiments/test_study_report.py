"""The report of a study in miniature: its tables and figures against the numbers that made it."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from experiments.studies import arms, claims, report
from experiments.studies import summary as study_summary

GAMES, SEEDS, STEPS = 30, 2, 4
POLICIES = {name: name for name in ("base", "sft", "pivotrl", "no_filter", "end_to_end")}
POLICIES["no_filter"] = "pivotrl"
CHANCES = {"base": 0.1, "sft": 0.5, "pivotrl": 0.9, "no_filter": 0.4, "end_to_end": 0.85}
QUESTIONS = ["a1", "a2", "a3", "a4", "b1", "b2"]
CONFIG = {
    "name": "games", "preset": "tiny", "model": {"name": "some/model"},
    "environment": {"split": "test", "turns": 20, "samples": 1},
    "suites": {"questions": 4},
    "train": {"steps": STEPS, "rows": 2, "pivots_per_row": 2, "samples": 8},
    "objective": {"kl_coef": 0.0}, "profile": {"samples_from": None},
}  # fmt: skip
DESCRIBED = {
    "config": CONFIG, "parameters": 1000, "multiplied": {"body": 600, "head": 400},
    "versions": {"jax": "1.2.3"}, "device": "1 x abacus", "cpu_count": 2,
    "command": "python -m experiments.ablations --config=<games> --seeds=2",
}  # fmt: skip


def drawn(arm: str, seed: int, what: str) -> np.random.Generator:
    return np.random.default_rng([list(POLICIES).index(arm), seed, ord(what)])


def wins(arm: str, seed: int, mode: str) -> np.ndarray:
    return drawn(arm, seed, mode[0]).random(GAMES) < CHANCES[arm]


def answers(arm: str, seed: int) -> np.ndarray:
    return drawn(arm, seed, "q").random(len(QUESTIONS)) < (0.3 if arm == "sft" else 0.7)


def steps(arm: str, seed: int) -> list[dict]:
    values = drawn(arm, seed, "m").random((STEPS, 3))
    return [
        {"step": step, "groups": 4, "row_tokens": 64, "action_tokens": 200, "sampled_tokens": 200,
         "rollout_turns": 100 * (seed + 1) + step, "group_std": a, "reward_std": b, "win_rate": c}
        for step, (a, b, c) in enumerate(values.tolist(), start=1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, play) -> Path:
    directory = tmp_path_factory.mktemp("study")
    for arm, policy in POLICIES.items():
        for seed in range(SEEDS):
            run = directory / arm / str(seed)
            greedy, sampled = (
                {f"game{i}": [int(won)] for i, won in enumerate(wins(arm, seed, mode))}
                for mode in ("greedy", "sampled")
            )
            asked = dict(zip(QUESTIONS, answers(arm, seed).astype(int).tolist(), strict=True))
            play(run, policy, greedy, asked, sampled)
            (run / "config.json").write_text(json.dumps(DESCRIBED))
            stage = run / {"pivotrl": "train"}.get(policy, policy)
            if policy in ("pivotrl", "end_to_end"):
                stage.mkdir()
                lines = [json.dumps(row) + "\n" for row in steps(arm, seed)]
                (stage / "metrics.jsonl").write_text("".join(lines))
                (stage / "played").mkdir()
                for row in steps(arm, seed)[1::2]:
                    own = {"win_rate": row["win_rate"], "seconds": 0.0}
                    (stage / "played" / f"{row['step']}.json").write_text(json.dumps(own))
    chosen = [arm for arm in arms.ARMS if arm.name in POLICIES]
    summary = study_summary.summary(directory, chosen)
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


@pytest.fixture(scope="module")
def pages(study) -> Path:
    report.write(study, study / "out")
    return study / "out"


def rows_below(text: str, title: str) -> dict[str, list[str]]:
    """The cells of the Markdown table under a title, by its first column."""
    lines = text.split(f"**{title}**\n\n")[1].split("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def mean_wins(arm: str, mode: str) -> np.ndarray:
    return np.mean([wins(arm, seed, mode) for seed in range(SEEDS)], axis=0)


TITLES = {arm.name: arm.title for arm in arms.ARMS}


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_win_rates_and_differences_are_those_of_the_games(pages, mode):
    text = (pages / "study.md").read_text()
    found = rows_below(text, f"Win rate on held-out tasks, {mode}")
    scores = rows_below(text, "Mean score on held-out tasks")
    assert list(found) == [TITLES[arm] for arm in POLICIES]
    own = {arm: mean_wins(arm, mode) for arm in POLICIES}
    for arm, won in own.items():
        rate, change, below = found[TITLES[arm]]
        assert rate.startswith(f"{100 * won.mean():.1f} [")
        # No game of these gives a part of its score.
        assert scores[TITLES[arm]][mode == "sampled"] == rate
        assert (change == "–", below == "–") == (arm == "base", arm == "pivotrl")
        told = [(change, won - own["base"]), (below, own["pivotrl"] - won)]
        for cell, games in [each for each in told if each[0] != "–"]:
            mean, *ends = map(float, re.findall(r"-?[\d.]+", cell.replace("−", "-")))
            assert mean == pytest.approx(100 * games.mean(), abs=0.051)
            # Another bootstrap of the games' own differences, whose means go in steps.
            again = np.random.default_rng(1).choice(games, (4000, GAMES)).mean(axis=1)
            step = 100 / (GAMES * SEEDS)
            assert ends == pytest.approx(100 * np.quantile(again, [0.025, 0.975]), abs=step + 0.1)


def test_out_of_domain_suites_weigh_the_same(pages):
    text = (pages / "study.md").read_text()
    means = rows_below(text, "Out-of-domain accuracy, mean of the suites")
    suites = rows_below(text, "Out-of-domain accuracy, suite by suite")
    for arm in POLICIES:
        own = np.mean([answers(arm, seed) for seed in range(SEEDS)], axis=0)
        a, b = own[:4].mean(), own[4:].mean()
        assert suites[TITLES[arm]] == [f"{100 * a:.1f}", f"{100 * b:.1f}"]
        assert means[TITLES[arm]][0].startswith(f"{50 * (a + b):.1f} [")


def test_what_it_took_and_every_seed(pages, study):
    text = (pages / "study.md").read_text()
    took, seeds = rows_below(text, "What it took"), rows_below(text, "Seed by seed")
    turns = np.mean([sum(row["rollout_turns"] for row in steps("end_to_end", s)) for s in (0, 1)])
    assert took[TITLES["end_to_end"]][0] == f"{turns:,.0f}"
    assert took["SFT"][0] == "0"
    for arm in POLICIES:
        for seed, cell in enumerate(seeds[TITLES[arm]]):
            rates = [100 * wins(arm, seed, mode).mean() for mode in ("greedy", "sampled")]
            assert cell.split(" / ")[:2] == [f"{rate:.1f}" for rate in rates]


def test_claims_have_their_verdicts(pages, study):
    text = (pages / "study.md").read_text()
    found = claims.findings(json.loads((study / "summary.json").read_text()))
    verdicts = {(each.claim, each.measured): each.verdict for each in found}
    # By the chances: 0.9 against 0.5, and against 0.4.
    for claim in ("PivotRL above SFT in domain", "Pivots matter: above random turns"):
        assert verdicts[claim, "in_domain/sampled"] == "reproduced"
        assert f"| {claim} |" in text
    count = list(verdicts.values()).count("reproduced")
    assert f"Of {len(verdicts)} findings on the paper's claims, {count} reproduce them" in text


class Picture:
    """A chart as it was drawn, read back by the numbers at its axes."""

    def __init__(self, path: Path) -> None:
        self.root = ET.fromstring(path.read_text())

    def x(self, pixels: np.ndarray) -> np.ndarray:
        return np.polyval(self.axis("middle", "x", 0), pixels)

    def y(self, pixels: np.ndarray) -> np.ndarray:
        return np.polyval(self.axis("end", "y", -3.5), pixels)

    def axis(self, anchor: str, way: str, shift: float) -> np.ndarray:
        ticks = (each for each in self.root.iter() if each.get("class") == "tick")
        words = [each for each in ticks if each.get("text-anchor") == anchor]
        pixels = [float(each.get(way)) + shift for each in words]
        values = [float(each.text.replace("−", "-").replace(",", "").replace(" %", ""))
                  for each in words]  # fmt: skip
        return np.polyfit(pixels, values, 1)

    def points(self, pixels: list[tuple[str, str]]) -> np.ndarray:
        x, y = np.array(pixels, float).T
        return np.stack([self.x(x), self.y(y)], axis=1)

    def path(self, style: str) -> np.ndarray:
        (own,) = (each for each in self.root.iter() if each.get("class") == style)
        return self.points(re.findall(r"([-\d.]+) ([-\d.]+)", own.get("d")))

    def dots(self, style: str) -> np.ndarray:
        own = (each for each in self.root.iter() if each.get("class") == style)
        return self.points([(each.get("cx"), each.get("cy")) for each in own])


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
def test_every_arm_has_its_dot_and_whisker(pages, study, mode):
    picture = Picture(pages / f"study/win-rate-on-held-out-tasks-{mode}.svg")
    dots = [each for each in picture.root.iter() if each.get("class", "").startswith("dot ")]
    whiskers = [each for each in picture.root.iter() if each.get("class", "").startswith("whisk")]
    found = json.loads((study / "summary.json").read_text())
    for arm, dot, whisker in zip(POLICIES, dots, whiskers, strict=True):
        assert dot.get("class") == ("dot s1" if arm == "pivotrl" else "dot s0")
        entry = found[arm]["means"][f"in_domain/{mode}"]["mean"]
        ends = picture.x(np.array([whisker.get("x1"), whisker.get("x2")], float)).tolist()
        assert ends == pytest.approx([100 * entry["low"], 100 * entry["high"]], abs=0.1)
        assert picture.x(float(dot.get("cx"))) == pytest.approx(
            100 * mean_wins(arm, mode).mean(), abs=0.1
        )


@pytest.mark.parametrize(
    ("file", "metric"),
    [
        ("reward-deviation-within-groups", "group_std"),
        ("reward-deviation-of-a-step", "reward_std"),
    ],
)
def test_the_deviation_is_drawn_as_a_mean_over_seeds(pages, file, metric):
    picture = Picture(pages / f"study/{file}.svg")
    labels = {each.text for each in picture.root.iter() if each.get("class") == "label"}
    drawn_arms = {"pivotrl": "s1", "no_filter": "s2", "end_to_end": "s3"}
    assert {TITLES[arm] for arm in drawn_arms} <= labels
    assert not {"SFT", "Base"} & labels
    for arm, style in drawn_arms.items():
        own = np.array([[row[metric] for row in steps(arm, seed)] for seed in range(SEEDS)])
        line, band = picture.path(f"line {style}"), picture.path(f"band {style}")
        np.testing.assert_allclose(line[:, 0], np.arange(1, STEPS + 1), atol=0.01)
        np.testing.assert_allclose(line[:, 1], own.mean(axis=0), atol=0.005)
        outline = np.concatenate([own.min(axis=0), own.max(axis=0)[::-1]])
        np.testing.assert_allclose(band[:, 1], outline, atol=0.005)


def test_win_rates_stand_over_the_turns_they_took(pages, study):
    picture = Picture(pages / "study/win-rate-against-rollout-turns.svg")
    for arm, style in (("pivotrl", "s1"), ("end_to_end", "s2")):
        turns, rates = (
            np.array([[row[name] for row in steps(arm, seed)] for seed in range(SEEDS)])
            for name in ("rollout_turns", "win_rate")
        )
        taken = np.cumsum(turns, axis=1)
        line = picture.path(f"line {style}")
        np.testing.assert_allclose(line[:, 0], taken[:, 1::2].mean(axis=0), atol=3)
        np.testing.assert_allclose(line[:, 1], 100 * rates[:, 1::2].mean(axis=0), atol=0.6)
    summary = json.loads((study / "summary.json").read_text())
    ours = [own["turns"]["training"] for own in summary["pivotrl"]["seeds"].values()]
    ends = {"end_to_end": ("s2", taken[:, -1]), "base": ("s0", [0, 0]), "pivotrl": ("s1", ours)}
    for arm, (style, spent) in ends.items():
        won = [100 * wins(arm, seed, "sampled").mean() for seed in range(SEEDS)]
        x, y = picture.dots(f"dot {style}").T
        np.testing.assert_allclose(x, spent, atol=3)
        np.testing.assert_allclose(y, won, atol=0.6)


def test_pages_need_nothing_from_outside_and_hold_every_figure(pages):
    html, text = ((pages / name).read_text() for name in ("study.html", "study.md"))
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == len(set(links)) == html.count("<svg") == 6
    for link in links:
        picture = (pages / link).read_text()
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        assert "--s1:" in picture
    assert not re.search(r"https?://|<script|<img", html)
    assert "--config=&lt;games&gt;" in html
    assert "- Seeds: 0, 1\n" in text
    assert "`python -m experiments.ablations --config=<games> --seeds=2`" in text
    assert "- Updates of PivotRL: 4 of at most 4 pivots × 8 samples" in text
    summary = (pages / "study/summary.json").read_text()
    assert summary == (pages.parent / "summary.json").read_text()


@pytest.fixture
def own(study, tmp_path) -> Path:
    """A copy to change."""
    return shutil.copytree(study, tmp_path / "study")


def test_trials_are_told(own):
    summary = json.loads((own / "summary.json").read_text())
    trials = [{"value": rate, "win_rate": 0.1 + 100 * rate} for rate in (1e-3, 3e-3)]
    field = "sft.optimizer.learning_rate"
    summary["sft"]["tuned"] = {"field": field, "chosen": 3e-3, "trials": trials}
    (own / "summary.json").write_text(json.dumps(summary))
    text = report.write(own, own).read_text()
    assert "same command with --tune" in text
    assert rows_below(text, "Chosen by trials") == {
        "SFT": [field, "0.001: 20.0, 0.003: 40.0", "0.003"]
    }


def test_a_study_of_one_arm_has_its_page(own):
    summary = json.loads((own / "summary.json").read_text())
    (own / "summary.json").write_text(json.dumps({"base": summary["base"]}))
    text = report.write(own, own).read_text()
    assert "speak to none of the paper's claims" in text
    assert not re.search("## Claims|Chosen by trials", text)


def test_notes_stand_in_both_pages(own):
    (own / "study").mkdir(exist_ok=True)
    (own / "study" / "notes.md").write_text("## What it says\n\n- **Games** are <won>.\n")
    text = report.write(own, own).read_text()
    html = (own / "study.html").read_text()
    assert "## What it says\n\n- **Games** are <won>.\n\n## Claims" in text
    assert "<h2>What it says</h2>" in html
    assert "<strong>Games</strong> are &lt;won&gt;." in html


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is not there"), ("{}", "has no finished run")]
)
def test_a_folder_without_a_study_is_told(tmp_path, monkeypatch, content, words):
    if content:
        (tmp_path / "summary.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["study_report", f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit, match=words):
        report.main()
