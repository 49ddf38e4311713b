"""The data that the repository carries is complete, small and says where it is from."""

import gzip
import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "experiments" / "data"


@pytest.mark.parametrize(("name", "items"), [("gsm8k", 60), ("mmlu", 57), ("ifeval", 60)])
def test_out_of_domain_text(name: str, items: int) -> None:
    with gzip.open(DATA / "ood" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == items
    assert all(set(row) == {"id", "text"} and row["text"].strip() for row in rows)
    assert not any("<<" in row["text"] for row in rows if name == "gsm8k")


def test_every_data_file_stands_in_its_readme() -> None:
    folders = [DATA / name for name in ("swe", "ood", "sql", "terminal")]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 3_000_000
    for folder in folders:
        readme = (folder / "README.md").read_text(encoding="utf-8")
        files = sorted(file.name for file in folder.glob("*.gz"))
        assert files
        assert all(f"`{file}`" in readme for file in files)
        assert "Copyright" in readme
