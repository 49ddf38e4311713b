"""Damaged files, failing templates and a full disk: what is good goes on, what is kept is said."""

import dataclasses
import errno
import gzip
import json
from pathlib import Path

import jax
import pytest

from experiments import swe
from experiments.artifacts import write_json
from experiments.context import Run
from experiments.settings import DataSettings, ModelSettings
from experiments.stages.candidates import candidates_stage, read_stage
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.text import ChatTemplate

CARRIED = Path(swe.__file__).parent / "data" / "swe"
EMPTY = (
    b'{"trajectory_format": "mini-swe-agent-1", "instance_id": "django__django-1", "messages": []}'
)


@pytest.fixture(scope="session")
def good_rows() -> list[bytes]:
    with gzip.open(CARRIED / "swebench_mini_swe_agent_deepseek.jsonl.gz") as lines:
        return [next(lines) for _ in range(6)]


def run_on(path: Path, model: Path, workdir: Path) -> Run:
    settings = dataclasses.replace(
        swe.smoke(), data=DataSettings(path=str(path)), model=ModelSettings(name=str(model))
    )
    return Run(settings, workdir, make_mesh(MeshSettings(), jax.devices()[:1]))


def cut(rows: list[bytes]) -> bytes:
    # The last row is a gzip member of its own, so that the cut is in it.
    return gzip.compress(b"".join(rows[:-1])) + gzip.compress(rows[-1])[:-200]


def quarantine(workdir: Path) -> list[dict]:
    lines = (workdir / "read" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("name", "reason", "line", "good"),
    [
        ("cut.jsonl.gz", "truncated_file", 6, 5),
        ("latin1.jsonl", "not_utf8", 3, 6),
        ("empty.jsonl", "empty_messages", 3, 6),
    ],
)
def test_the_run_goes_on_with_the_good_rows(
    name: str,
    reason: str,
    line: int,
    good: int,
    good_rows: list[bytes],
    small_model: Path,
    tmp_path: Path,
) -> None:
    bad = {"latin1.jsonl": "{'caf\xe9'}".encode("latin-1") + b"\n", "empty.jsonl": EMPTY + b"\n"}
    path = tmp_path / name
    rows = [*good_rows[:2], bad.get(name, b""), *good_rows[2:]]
    path.write_bytes(cut(good_rows) if name == "cut.jsonl.gz" else b"".join(rows))
    run = run_on(path, small_model, tmp_path / "run")
    found = read_stage(run)
    trajectories = found["swe"]
    assert len(trajectories) == good
    (record,) = quarantine(run.workdir)
    assert (record["file"], record["line"], record["reason"]) == (str(path), line, reason)
    audit = json.loads((run.workdir / "read/audit.json").read_text())
    assert (audit["read"], audit["quarantined"], audit["reasons"]) == (good, 1, {reason: 1})
    corpus = candidates_stage(run, found)
    assert {row["trajectory_id"] for row in corpus.table.to_pylist()} <= {
        trajectory.id for trajectory in trajectories
    }
    assert all(corpus.turns.values())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", r"line 1 .*roles must alternate"),
        ("\n{{ messages[0].name.upper() }}", r"line 2 of the chat template fails with Undefined"),
        ("{% for m in messages %}", r"chat template fails with TemplateSyntaxError"),
    ],
)
def test_a_template_that_fails_is_one_sentence(
    source: str, said: str, small_model: Path, tmp_path: Path
) -> None:
    run = run_on(CARRIED / "sweagent_demonstrations.jsonl.gz", small_model, tmp_path)
    run.domains["swe"].__dict__["template"] = ChatTemplate(source)
    with pytest.raises(UserError, match=said) as caught:
        candidates_stage(run, read_stage(run))
    assert "\n" not in str(caught.value)
    assert "correct the template" in str(caught.value)


@pytest.mark.parametrize("call", ["pathlib.Path.write_text", "os.replace"])
def test_a_full_disk_keeps_the_earlier_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.json"
    write_json(path, {"read": 8})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(UserError, match=r"audit\.json could not be written \(No space left"):
            write_json(path, {"read": 9})
    assert [file.name for file in tmp_path.iterdir()] == ["audit.json"]
    assert json.loads(path.read_text()) == {"read": 8}
