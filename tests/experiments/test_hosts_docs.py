"""The start lines of docs/hosts.md: shells and YAML readers take them, and every flag exists."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from absl import flags

import experiments.run  # noqa: F401, defines the flags
from experiments import swe
from experiments.config import to_config

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/hosts.md").read_text(), re.DOTALL)
SHELL = [text for kind, text in BLOCKS if kind == "bash"]
YAML = [text for kind, text in BLOCKS if kind == "yaml"]


def commands(text: str) -> list[str]:
    """The arguments of every run in a shell block."""
    joined = text.replace("\\\n", " ")
    return [line.split("&")[0] for line in re.findall(r"experiments\.run (.*)", joined)]


def unknown(arguments: list[str]) -> list[str]:
    """Flags that the command line does not have, and config files that are not there."""
    found = []
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        if name == "config":
            file, _, preset = value.partition(":")
            known = (ROOT / file).is_file() and hasattr(swe, preset)
        elif name.startswith("config."):
            place = to_config(swe.host())
            *path, field = name.removeprefix("config.").split(".")
            for part in path:
                place = place[part]
            known = field in place and place.get_type(field) is not None
        else:
            known = name in flags.FLAGS
        found += [] if known else [argument]
    return found


def test_every_kind_of_start_is_there() -> None:
    words = ("gcloud", "srun", "--coordinator=localhost")
    assert [sum(word in text for text in SHELL) for word in words] == [1, 1, 1]
    assert len(BLOCKS) == len(SHELL) + len(YAML)


@pytest.mark.parametrize("text", SHELL)
def test_shell_blocks_are_shell_and_their_flags_exist(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    runs = commands(text)
    assert runs
    for run in runs:
        arguments = [word.strip('"') for word in run.split()]
        assert all(argument.startswith("--") for argument in arguments)
        assert unknown(arguments) == []


@pytest.mark.parametrize("text", YAML)
def test_yaml_blocks_are_yaml_and_their_flags_exist(text: str) -> None:
    parts = list(yaml.safe_load_all(text))
    args = [part["args"] for part in parts if "args" in part]
    for part in parts:
        if part.get("kind") == "Job":
            (container,) = part["spec"]["template"]["spec"]["containers"]
            assert container["command"] == ["python", "-m", "experiments.run"]
            assert part["spec"]["completions"] == part["spec"]["parallelism"]
            args.append(container["args"])
    assert len(args) == 1
    assert unknown(args[0]) == []


def test_the_check_finds_a_flag_that_is_not_there() -> None:
    wrong = ["--procces=1", "--config=experiments/nowhere.py:host"]
    assert unknown([*wrong, "--process=1"]) == wrong
