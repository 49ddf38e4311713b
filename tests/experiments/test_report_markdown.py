import json
import shutil

import pytest

from experiments.reports.data import load
from experiments.reports.markdown import markdown


def cells(text: str, first: str) -> list[str]:
    """The cells of the row that starts with `first`."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_tables_hold_the_figures_of_the_artifacts(workdir):
    text = markdown(load(workdir))
    for name, label in {"base": "Base", "sft": "SFT", "pivotrl": "PivotRL"}.items():
        scores = json.loads((workdir / "evaluate" / f"{name}.json").read_text())
        row = cells(text, label)
        assert row[1].startswith(f"{scores['heldout']['mean']:.3f} [{scores['heldout']['low']:.3f}")
        sets = sorted(scores["perplexity"])
        assert row[5:] == [f"{scores['perplexity'][s]['perplexity']:.2f}" for s in sets]
    audit = json.loads((workdir / "select" / "audit.json").read_text())
    flat = audit["status"]["all_pass"] + audit["status"]["all_fail"]
    assert cells(text, "train candidates with zero variance")[1].startswith(f"{flat} of ")
    assert cells(text, "pivots kept")[1] == str(audit["selected"])
    assert (
        "131,402, 525,608 (4.0 times"
        in cells(text, "tokens of their trunks, and of a row for each")[1]
    )


@pytest.mark.parametrize("gone", ["evaluate", "select"])
def test_an_unfinished_run_has_the_tables_it_can_have(workdir, gone):
    shutil.rmtree(workdir / gone)
    text = markdown(load(workdir))
    assert ("held-out reward" in text, "pivots kept" in text) != (True, True)
    assert "| read |" in text


def test_a_stage_says_what_drafts_saved_it(workdir):
    """A resumed stage has its parts added up; an earlier version has counted no samples."""
    part = {"stage": "profile", "seconds": 9.0, "peak_rss_mb": 5.0}
    parts = [
        part | {"tokens": 300, "drafted": 90, "samples": 20},
        part | {"tokens": 100, "drafted": 10, "samples": 20},
        part | {"stage": "train", "tokens": 300, "drafted": 90},
        part | {"stage": "sft", "tokens": 300, "drafted": 0, "samples": 0},
    ]
    (workdir / "timing.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in parts))
    text = markdown(load(workdir))
    assert cells(text, "profile")[2:4] == ["400", "100 (25 %, 2.5 a sample)"]
    assert cells(text, "train")[2:4] == ["300", "90 (30 %)"]
    assert cells(text, "sft")[2:4] == ["300", "–"]
