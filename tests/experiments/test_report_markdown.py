import json
import shutil

import pytest

from experiments.report_data import load
from experiments.report_markdown import markdown


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
