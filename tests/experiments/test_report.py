import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import report
from experiments.reports import browser
from experiments.reports.data import load
from experiments.reports.reasons import reason_rows
from experiments.reports.verdict import sentences
from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import read_samples

ROOT = Path(report.__file__).parent.parent


class Page(HTMLParser):
    """Elements, attributes and visible text, split as a browser splits them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.attributes, self.scripts, self.words = [], [], [], []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)
        elif self.lasttag != "style":
            self.words.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_headline_numbers_are_those_of_the_artifacts(workdir):
    page = Page(report.write(workdir))
    statuses = [
        row["status"] for row in pq.read_table(workdir / "select/table.parquet").to_pylist()
    ]
    scored = [name for name in statuses if name not in ("error", "too_few")]
    silent = sum(name in ("all_pass", "all_fail") for name in scored)
    assert f"{silent} of {len(scored)} scored; the paper saw 71 %" in page.text
    assert f"{100 * silent / len(scored):.0f} % zero-variance turns" in page.text
    assert f"{statuses.count('pivot')} pivots kept" in page.text
    assert "208 candidates 60 train, 148 heldout" in page.text
    assert "0.433 [0.392, 0.477]" in page.text
    assert "gsm8k 18.91 20.87 +10.4 % 20.95 +10.8 %" in page.text
    assert "laptop SmolLM2-135M-Instruct" in page.text
    assert "python -m experiments.run --config=experiments/swe.py:laptop" in page.text


def test_every_left_out_item_has_its_reason(workdir):
    text = Page(report.write(workdir)).text
    assert "Read 75 lines" in text
    assert "trajectories read 72" in text
    assert "no messages 2 not utf8 1" in text
    assert "history too long 4,009" in text


def test_every_sample_is_counted_by_what_was_said_of_it(workdir):
    table = read_samples(workdir / "profile/train").to_pylist()
    rows = reason_rows(load(workdir))
    assert 1 < len(rows) <= 13
    for name, own in {
        "accepted": [s for s in table if s["error"] is None and s["reward"] > 0],
        "rejected": [s for s in table if s["error"] is None and s["reward"] == 0],
        "unjudged": [s for s in table if s["error"] is not None],
    }.items():
        assert sum(row[name] for row in rows) == len(own) > 0
    totals = [row["accepted"] + row["rejected"] + row["unjudged"] for row in rows[:12]]
    assert totals == sorted(totals, reverse=True)


def test_needs_nothing_from_outside(workdir):
    html = report.write(workdir).read_text()
    page = Page(workdir / "report.html")
    assert not {"img", "link", "iframe", "object"} & set(page.elements)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "onclick")]
    assert "default-src 'none'" in html
    assert not re.search(r"https?://", html)
    assert "innerHTML" not in page.scripts[1]


def test_is_accessible(workdir):
    page = Page(report.write(workdir))
    tables, charts = page.elements.count("table"), page.attributes.count(("role", "img"))
    assert page.elements.count("caption") == tables == 6
    assert charts == len([value for name, value in page.attributes if name == "aria-label"]) == 14
    assert ("scope", "row") in page.attributes
    assert ("lang", "en") in page.attributes


def test_browser_holds_candidates_with_their_samples(workdir):
    data = Page(report.write(workdir)).data
    assert data["profiled"] == len(data["candidates"]) == 60
    for candidate in data["candidates"]:
        rewards = [s["reward"] for s in candidate["samples"] if s["error"] is None]
        assert len(candidate["samples"]) == 8
        assert [sample["sample"] for sample in candidate["samples"]] == list(range(8))
        assert candidate["mean"] == pytest.approx(np.mean(rewards))
        assert len(candidate["history"]) == 4
        assert "```bash" in candidate["expert"]


def test_browser_takes_pivots_first_and_then_every_outcome(workdir):
    table = pq.read_table(workdir / "select/table.parquet").to_pylist()
    pivots = sum(row["status"] == "pivot" for row in table)
    chosen = browser.choose(table, limit=pivots + 6)
    assert [row["status"] for row in chosen[:pivots]] == ["pivot"] * pivots
    variances = [row["variance"] for row in chosen[:pivots]]
    assert variances == sorted(variances, reverse=True)
    assert {row["status"] for row in chosen[pivots:]} == {"all_pass", "all_fail", "too_easy"}


def test_long_histories_keep_their_latest_messages(workdir):
    path = workdir / "candidates/candidates_text.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["history"] = [{"role": "tool", "content": f"{i:04d}" * 1000} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Page(report.write(workdir)).data
    (candidate,) = [c for c in data["candidates"] if c["id"] == rows[0]["candidate_id"]]
    assert candidate["left_out"] + len(candidate["history"]) == 40
    assert candidate["history"][-1]["content"].endswith("0039")
    assert "1,000 characters left out" in candidate["history"][-1]["content"]
    total = sum(len(message["content"]) for message in candidate["history"])
    assert total <= browser.HISTORY_CHARS


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 &lt;b&gt;"


def test_hostile_text_is_inert(workdir):
    samples = workdir / "profile/train/samples-00000.parquet"
    table = pq.read_table(samples)
    rows = table.to_pylist()
    rows[0].update(text=HOSTILE, reason=HOSTILE, error=HOSTILE, criteria=json.dumps({HOSTILE: 1.0}))
    pq.write_table(table.from_pylist(rows, schema=table.schema), samples)
    edit(workdir / "config.json", command=HOSTILE, preset=HOSTILE)
    edit(workdir / "read/audit.json", reasons={HOSTILE: 3})
    page = Page(report.write(workdir))
    assert page.elements.count("script") == 2
    assert "img" not in page.elements
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    (shown,) = [
        sample
        for candidate in page.data["candidates"]
        for sample in candidate["samples"]
        if sample["text"] == HOSTILE
    ]
    assert shown["criteria"] == {HOSTILE: 1.0}


@pytest.mark.parametrize(
    ("gone", "absent"),
    [
        (["evaluate"], "Retention"),
        (["train", "evaluate"], "Groups that carry signal"),
        (["sft"], "Warm start"),
        (["select", "train", "evaluate"], "Pivot browser"),
        (["read", "candidates", "sft", "profile", "select", "train", "evaluate"], "pivots kept"),
    ],
)
def test_partial_run_says_what_is_missing(workdir, gone, absent):
    for stage in gone:
        shutil.rmtree(workdir / stage)
    text = Page(report.write(workdir)).text
    assert f"Not in this work directory: {', '.join(gone)}" in text
    assert absent not in text


def test_whole_run_has_no_such_notice(workdir):
    assert "Partial run" not in Page(report.write(workdir)).text


def test_a_run_that_is_still_writing_can_be_looked_at(workdir):
    with (workdir / "train/metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "rewa')
    assert "50 training steps" in Page(report.write(workdir)).text


def test_command_line(workdir, tmp_path_factory):
    def run(path):
        command = [sys.executable, "-m", "experiments.report", f"--workdir={path}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    shutil.rmtree(workdir / "train")
    done = run(workdir)
    assert done.returncode == 0
    assert done.stdout == f"{workdir / 'report.html'}\nNot in this work directory: train.\n"
    failed = run(workdir / "nowhere")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "there is no such directory" in failed.stderr


def test_bad_artifacts_are_named(workdir, tmp_path_factory):
    with pytest.raises(UserError, match=r"there is no config\.json"):
        report.write(tmp_path_factory.mktemp("empty"))
    table = pq.read_table(workdir / "select/table.parquet").drop_columns("variance")
    pq.write_table(table, workdir / "select/table.parquet")
    with pytest.raises(UserError, match=r"table\.parquet: column variance is missing"):
        report.write(workdir)
    (workdir / "select/table.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"table\.parquet: .*run that stage again"):
        report.write(workdir)


def test_bad_line_is_named(workdir):
    (workdir / "sft/metrics.jsonl").write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not JSON"):
        report.write(workdir)


def policy(mean, low, high, **more):
    size = {"n_candidates": 40, "n_trajectories": 9}
    return {"heldout": {"mean": mean, "low": low, "high": high, **size}, **more}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.01, 0.07, "[−0.010, 0.070] against SFT: not distinguishable from zero"),
        (0.01, 0.05, "[0.010, 0.050] against SFT: better"),
        (float("nan"), float("nan"), "[no interval] against SFT: one trajectory alone"),
    ],
)
def test_verdict_follows_the_interval(low, high, words):
    against = {"sft": {"heldout": {"mean": 0.03, "low": low, "high": high}}}
    policies = {"sft": policy(0.4, 0.3, 0.5), "pivotrl": policy(0.43, 0.3, 0.5, against=against)}
    lead = sentences(policies)[0]
    assert f"changed held-out reward by +0.030 {words}" in lead
    assert lead.endswith("(40 candidates of 9 trajectories, paired by candidate).")


def test_verdict_without_pairing_adds_the_two_widths():
    policies = {"base": policy(0.5, 0.46, 0.53), "pivotrl": policy(0.2, 0.17, 0.24)}
    (lead,) = sentences(policies)
    # Below: hypot(0.03, 0.03); above: hypot(0.04, 0.04).
    assert "by −0.300 [−0.342, −0.243] against Base: worse" in lead
    assert "not paired" in lead


def test_verdict_says_when_there_is_nothing_to_say():
    assert sentences({"base": policy(0.5, 0.4, 0.6)}) == [
        "PivotRL has not been evaluated in this work directory yet."
    ]
    unscored = {"base": policy(0.5, 0.4, 0.6), "pivotrl": policy(None, None, None)}
    assert "not been evaluated" in sentences(unscored)[0]
