"""The report of a run on two domains whose policy was profiled again."""

import json
from pathlib import Path

import pytest

from experiments import report
from experiments.reports.data import load
from experiments.reports.domains import domain_rows, profile_rows
from experiments.reports.markdown import markdown

STATUS = {
    "terminal": {"pivot": 9, "all_fail": 20, "too_easy": 1},
    "sql": {"pivot": 3, "error": 2, "too_few": 4},
}


def rewritten(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | values))


@pytest.fixture
def mixed(workdir: Path) -> Path:
    config = json.loads((workdir / "config.json").read_text())["config"]
    rewritten(
        workdir / "config.json", config=config | {"domain": "terminal", "others": {"sql": {}}}
    )
    by_domain = {
        name: {"by_split": {"train": 30, "heldout": n}} for name, n in (("terminal", 8), ("sql", 7))
    }
    rewritten(workdir / "candidates/audit.json", by_domain=by_domain)
    chosen = {name: own["pivot"] for name, own in STATUS.items()}
    rewritten(workdir / "select/audit.json", domain=STATUS, selected_by_domain=chosen)
    (workdir / "read" / "audit.json").unlink()
    for name, lines in (("terminal", 40), ("sql", 50)):
        rewritten(
            workdir / f"read/{name}/audit.json",
            lines=lines,
            read=lines - 3,
            reasons={"not_json": 3},
        )
    for number, policy in enumerate(("base", "sft", "pivotrl")):
        own = {"mean": 0.1 * number, "low": 0.1 * number - 0.05, "high": 0.1 * number + 0.05}
        against = {"sft": {"heldout": {"mean": -0.01, "low": -0.03, "high": 0.02}}}
        scores = {"heldout": own, "against": against}
        nothing = {"heldout": {"mean": None, "low": None, "high": None}, "against": {}}
        rewritten(workdir / f"evaluate/{policy}.json", domains={"terminal": scores, "sql": nothing})
    reason = {"number": 1, "step": 5, "reason": "mixed_share fell to 0.1, below 0.5 of 0.6"}
    rewritten(workdir / "profile/1/reason.json", **reason)
    rewritten(
        workdir / "profile/1/select/audit.json", status={"pivot": 4, "all_pass": 6}, selected=4
    )
    return workdir


def test_every_domain_has_its_row(mixed: Path) -> None:
    terminal, sql = domain_rows(load(mixed))
    assert (terminal["candidates"], sql["candidates"]) == ("30 + 8", "30 + 7")
    assert (terminal["silent"], terminal["pivots"]) == ("20 of 30 (67%)", "9")
    assert (sql["silent"], sql["pivots"]) == ("0 of 3 (0%)", "3")
    assert terminal["rewards"][1] == "0.100 [0.050, 0.150]"
    assert terminal["change"] == "−0.010 [−0.030, 0.020]"
    assert sql["rewards"] == ["–"] * 3
    assert sql["change"] == "–"


def test_later_profiles_stand_beside_the_first(mixed: Path) -> None:
    first, second = profile_rows(load(mixed))
    assert (first["number"], first["step"], first["reason"]) == (0, 0, "before training")
    assert (second["number"], second["step"], second["pivots"]) == (1, 5, "4")
    assert second["silent"] == "6 of 10 (60%)"


def test_page_and_markdown_show_them(mixed: Path) -> None:
    page = report.write(mixed).read_text()
    assert "0.100 [0.050, 0.150]" in page
    assert "mixed_share fell to 0.1, below 0.5 of 0.6" in page
    assert load(mixed).read_audit == {"lines": 90, "read": 84, "reasons": {"not_json": 6}}
    assert "| sql | 30 + 7 | 0 of 3 (0%) | 3 | – | – | – | – |" in markdown(load(mixed))


def test_a_run_on_one_domain_has_neither(workdir: Path) -> None:
    run = load(workdir)
    assert domain_rows(run) == profile_rows(run) == []
