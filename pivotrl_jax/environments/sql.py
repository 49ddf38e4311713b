"""InterCode-SQL: a dialogue with a database until a command's rows answer the question."""

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pivotrl_jax.environments import mysql
from pivotrl_jax.environments.types import Feedback, Split, Task
from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import SQL_TOOL, Action, Message
from pivotrl_jax.trajectories.intercode import SQL_PROMPT
from pivotrl_jax.verifiers.sql.databases import Databases, Expected
from pivotrl_jax.verifiers.sql.mysql import Refused
from pivotrl_jax.verifiers.sql.results import overlap
from pivotrl_jax.verifiers.sql.sqlite import OutOfTime

_VALIDATION = frozenset({"battle_death", "course_teach", "pets_1", "voter_1"})
_TEST = frozenset({"dog_kennels", "employee_hire_evaluation", "museum_visit", "orchestra"})

_NO_COMMAND = "There is no single SQL command in your turn. Send exactly one."
# The longest that an expert saw has 28,696 characters; a product of two tables has a million.
_MAX_CHARS = 30_000


def split_of(database: str) -> Split:
    """The part that all questions about a database belong to.

    A test question is about a schema that no training question and no session trained on is about.
    """
    if database in _TEST:
        return "test"
    return "validation" if database in _VALIDATION else "train"


@dataclasses.dataclass(frozen=True)
class InterCodeSql:
    """Questions of Spider's development set, each put to a private copy of its database.

    An episode ends, in success, at the first command whose rows are the reference query's (as the
    verifier `sql` compares them, and looked up in about the same tables). So did the expert
    sessions: InterCode submitted after every command and stopped at reward 1 or after ten
    turns (experiments/eval_n_turn.py there). Nobody says "submit", which no expert turn could have
    taught; a turn without a command is told so and counts as a turn. The score is 0 until then.

    `left_out` counts the questions that are no tasks by reason: where the reference returns no
    rows, or 0, every command without a match would be the answer.
    """

    databases: Databases
    questions: Sequence[Task]
    left_out: Mapping[str, int]

    @classmethod
    def load(cls, questions: str, databases: str) -> "InterCodeSql":
        """`questions` is a gzipped JSON list of `task_id`, `db`, `query`, `gold` and `hardness`,
        `databases` as `Databases` takes it. Raises UserError where either is unusable."""
        copies = Databases(databases)
        left_out: Counter[str] = Counter()
        tasks = []
        for number, row in enumerate(_read(questions)):
            task = _task(row, f"{questions}, question {number}")
            reason = _unusable(task, copies)
            if reason:
                left_out[reason] += 1
            else:
                tasks.append(task)
        return cls(copies, tuple(tasks), dict(left_out))

    @property
    def tools(self) -> tuple[dict[str, Any], ...]:
        return (SQL_TOOL,)

    def tasks(self, split: Split) -> Sequence[Task]:
        return [task for task in self.questions if task.split == split]

    def reset(self, task: Task) -> tuple["SqlEpisode", Feedback]:
        expected = self.databases.expected(task.group, task.facts["gold"])
        opening = (Message("system", SQL_PROMPT), Message("user", task.facts["query"]))
        return SqlEpisode(self.databases, task.group, expected), Feedback(opening)


@dataclasses.dataclass(frozen=True)
class SqlEpisode:
    """The copy is read-only, so that an episode is nothing but its question."""

    databases: Databases
    database: str
    expected: Expected

    @property
    def legal(self) -> None:
        return None

    def step(self, action: Action) -> Feedback:
        command = _command(action)
        if command is None:
            said = Message("tool" if action.calls else "user", _NO_COMMAND, failed=True)
            return Feedback((said,), valid=False)
        try:
            answer = self.databases.answer(self.database, command)
        except (Refused, OutOfTime) as reason:
            text = mysql.error(self.database, command, str(reason))
            said = Message("tool", f"Error executing query: {text}", failed=True)
            return Feedback((said,), valid=False)
        looked_up = overlap(self.expected.answer.tables, answer.tables) >= 0.5
        done = looked_up and self.expected.equals(answer)
        rows = mysql.rows(command, answer)[:_MAX_CHARS]
        return Feedback((Message("tool", rows),), done, float(done))


def _command(action: Action) -> str | None:
    """The command of an action that is exactly one call of the tool."""
    function = SQL_TOOL["function"]
    (argument,) = function["parameters"]["required"]
    if len(action.calls) != 1 or action.calls[0].name != function["name"]:
        return None
    arguments = action.calls[0].arguments
    command = arguments.get(argument) if isinstance(arguments, dict) else None
    return command if isinstance(command, str) else None


def _read(path: str) -> list[Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no gzipped JSON ({error}): fetch it again") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is no JSON list of questions: fetch it again")
    return rows


def _task(row: Any, source: str) -> Task:
    try:
        facts = {name: str(row[name]) for name in ("query", "gold", "hardness", "db")}
        return Task(str(row["task_id"]), facts["db"], split_of(facts["db"]), facts)
    except (KeyError, TypeError) as error:
        raise UserError(f"{source} lacks the field {error}: add it or drop the question") from error


def _unusable(task: Task, databases: Databases) -> str:
    """Why a question is no task, or nothing. Raises UserError where its database is missing."""
    try:
        answer = databases.answer(task.group, task.facts["gold"])
    except (Refused, OutOfTime):
        return "reference_does_not_run"
    except LookupError as error:
        raise UserError(f"question {task.id}: {error}; add it or drop the question") from error
    return "reference_without_rows" if answer.bare else ""
