import contextlib
import io
import json
import logging

import pytest
from rich.console import Console

from experiments.progress import Progress, duration, only_decisions, stage_timer


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_log_gets_one_line_every_ten_seconds():
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=False)
    with Progress("profile", 100, "candidates", console=console, clock=clock) as bar:
        bar.note("mixed 24 %")
        for _ in range(100):
            clock.now += 0.5
            bar.advance()
    lines = out.getvalue().splitlines()
    assert lines[0] == "profile: 0/100 candidates"
    assert lines[1] == "profile: 20/100 candidates · 2.0/s · 40 s left · mixed 24 %"
    assert lines[-1] == "profile: 100/100 candidates · done in 50 s · mixed 24 %"
    assert len(lines) == 7


def test_a_terminal_gets_a_bar_with_the_same_words():
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress("train", 4, "steps", console=console, clock=clock) as bar:
        clock.now = 30.0
        bar.advance()
    assert "train" in out.getvalue()
    assert "1/4 steps · 2.0/min · 1 min 30 s left" in out.getvalue()


def test_resumed_work_does_not_flatter_the_rate():
    clock = Clock()
    bar = Progress("profile", 100, "candidates", initial=80, console=Console(), clock=clock)
    clock.now = 10.0
    bar.advance(10)
    assert bar.status() == "90/100 candidates · 1.0/s · 10 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (144, "2 min 24 s"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_timing_has_a_line_for_each_finished_stage(tmp_path):
    with stage_timer(tmp_path, "read"):
        pass
    with stage_timer(tmp_path, "profile") as record:
        record.tokens += 512
        record.drafted, record.samples = 128, 64
    with pytest.raises(KeyError), stage_timer(tmp_path, "train"):
        raise KeyError
    rows = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    counts = [[row[k] for k in ("stage", "tokens", "drafted", "samples")] for row in rows]
    assert counts == [["read", 0, 0, 0], ["profile", 512, 128, 64]]
    assert all(row["peak_rss_mb"] > 10 and row["seconds"] >= 0 for row in rows)


def test_decisions_are_written_where_the_process_writes_now(monkeypatch):
    """A study's runs have their stderr in a file of their own; handlers of others stay."""
    other, written, early = logging.NullHandler(), io.StringIO(), io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [other, logging.StreamHandler(early)])
    only_decisions()
    with contextlib.redirect_stderr(written):
        only_decisions()
        logging.getLogger("kernels.backend").info("tree_decode: xla on cpu")
        logging.getLogger("orbax").info("a page")
    assert written.getvalue() == "INFO: tree_decode: xla on cpu\n"
    assert early.getvalue() == ""
    assert other in logging.getLogger().handlers
