"""GSM8K, SVAMP, MMLU and IFEval, as a folder of gzip-compressed JSON lines holds them.

HumanEval is left out: scoring it means running programs that a model wrote, and the verdict on a
small model, which solves next to none, would not be worth a sandbox.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation.suites.ifeval import CHECKS, follows
from pivotrl_jax.evaluation.suites.numbers import arrives_at
from pivotrl_jax.evaluation.suites.questions import Question

Row = Mapping[str, Any]


Item = TypeVar("Item")


def carried_questions(
    directory: Path, names: Sequence[str], count: int | None = None
) -> list[Question]:
    """`count` questions of each `directory/NAME.jsonl.gz` (None: all), evenly spaced over the file.

    Raises UserError where a set is unknown or a file or a line of it cannot be read.
    """
    return [q for name in names for q in spread(list(_read(directory, name)), count)]


def _read(directory: Path, name: str) -> Iterator[Question]:
    if name not in _SETS:
        raise UserError(f"no out-of-domain set {name!r}; choose among {', '.join(_SETS)}")
    file = directory / f"{name}.jsonl.gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield from _question(line, name, f"{file}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); put the set there or leave it out"
        ) from None


def _question(line: str, name: str, place: str) -> list[Question]:
    try:
        question = _SETS[name](json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place} is no {name} question ({type(error).__name__}: {error}); correct the line"
        ) from None
    return [] if question is None else [question]


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """`count` of the items (None: all), evenly spaced."""
    size = len(items)
    if count is None or count >= size:
        return list(items)
    return [items[i * size // count] for i in range(count)]


def _worked(suite: str, row: Row) -> Question:
    """A question whose answer is the number that a worked solution ends with."""
    number = float(row["answer"].replace(",", ""))
    return Question(
        id=row["id"],
        suite=suite,
        prompt=row["question"],
        check=lambda answer: (arrives_at(answer, number),),
        answer=f"#### {row['answer']}",
    )


def _mmlu(row: Row) -> Question:
    right = row["choices"]["ABCD".index(row["answer"])]
    return Question(
        id=row["id"],
        suite="mmlu",
        prompt=row["question"],
        check=lambda answer: (answer == right,),
        answer=right,
        options=tuple(row["choices"]),
    )


def _ifeval(row: Row) -> Question | None:
    """None where an instruction cannot be checked (see `ifeval`)."""
    asked = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
    if not all(name in CHECKS for name, _ in asked):
        return None
    question = Question(
        id=row["id"],
        suite="ifeval",
        prompt=row["prompt"],
        check=lambda answer: [follows(answer, name, arguments) for name, arguments in asked],
    )
    question.check("An argument that is missing fails now, while the line is known.")
    return question


_SETS: Mapping[str, Callable[[Row], Question | None]] = {
    "gsm8k": partial(_worked, "gsm8k"),
    "svamp": partial(_worked, "svamp"),
    "mmlu": _mmlu,
    "ifeval": _ifeval,
}
