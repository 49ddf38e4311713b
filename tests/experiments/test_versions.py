"""A result names the commit of the code that it comes from."""

import subprocess
from pathlib import Path

import jax

from experiments.versions import commit, versions


def test_packages_have_their_versions():
    assert versions()["jax"] == jax.__version__
    assert next(iter(versions())) == "python"


def test_a_commit_is_marked_where_files_differ(tmp_path: Path):
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert commit(tmp_path) == {}
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message=first")
    head = git("rev-parse", "--short=10", "HEAD").strip()
    assert commit(tmp_path) == {"pivotrl_jax": head}
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == {"pivotrl_jax": f"{head}+"}
