"""Answers to commands on the databases of a data set, each of which gets a private copy."""

import dataclasses
import functools
import tarfile
import threading
from pathlib import Path, PurePosixPath

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.sql.mysql import Refused, translate
from pivotrl_jax.verifiers.sql.results import Groups, groups, same_rows
from pivotrl_jax.verifiers.sql.sqlite import Answer, Sandbox

_KEPT_ANSWERS, _KEPT_COPIES = 64, 8


@dataclasses.dataclass(frozen=True)
class Expected:
    """An expert's answer and the freedom that its query leaves to the order of the rows."""

    answer: Answer
    groups: Groups

    def comparable(self, actual: Answer) -> bool:
        """Whether the rows of `actual` can tell if it is the same result: it has as many columns.

        Without a match any query returns no rows, or 0: there the columns read must be equal, too.
        """
        answer = self.answer
        same_width = len(answer.columns) == len(actual.columns)
        return same_width and (answer.reads == actual.reads or not answer.bare)

    def equals(self, actual: Answer) -> bool:
        """Whether `actual` is a result that the expert's query might have had."""
        return self.comparable(actual) and same_rows(self.groups, actual.rows)


class Databases:
    """Runs MySQL commands on copies of the databases at one place; remembers the latest answers.

    The files are read into memory and never opened for writing. Safe to share between threads.
    """

    def __init__(self, path: str) -> None:
        """`path` is a folder of NAME.sqlite files or a tar archive of them; UserError if not."""
        self._path = Path(path)
        if not path or not self._path.exists():
            raise UserError(
                f"there are no databases at {path!r}: set reward.databases to a folder of .sqlite "
                "files or a tar archive of them, or --databases on the command line"
            )
        self._archived = None if self._path.is_dir() else _unpacked(self._path)
        self._lock = threading.RLock()
        self.answer = functools.lru_cache(_KEPT_ANSWERS)(self._answer)
        self.expected = functools.lru_cache(_KEPT_ANSWERS)(self._expected)
        self._copy = functools.lru_cache(_KEPT_COPIES)(self._open)

    def _answer(self, database: str, command: str) -> Answer:
        """Raises Refused, OutOfTime, and LookupError for a database that is not there."""
        with self._lock:
            statement = translate(command)
            answer = self._copy(database).run(statement.sql)
        if statement.kind == "schema" and not answer.rows:
            raise Refused("no such table")
        return answer

    def _expected(self, database: str, command: str) -> Expected:
        """Raises what `answer` raises."""
        answer = self.answer(database, command)
        with self._lock:
            run = self._copy(database).run
            return Expected(answer, groups(answer, translate(command).ordering, run))

    def _open(self, database: str) -> Sandbox:
        return Sandbox(self._image(database), database)

    def _image(self, database: str) -> bytes:
        file = self._path / f"{database}.sqlite"
        if self._archived is not None:
            image = self._archived.get(database)
        else:
            image = file.read_bytes() if file.parent == self._path and file.is_file() else None
        if image is None:
            raise LookupError(f"there is no database {database!r} in {self._path}")
        return image


def _unpacked(path: Path) -> dict[str, bytes]:
    """The content of each .sqlite file of a tar archive by its bare name; nothing is written."""
    try:
        with tarfile.open(path) as archive:
            files = [m for m in archive if m.isfile() and m.name.endswith(".sqlite")]
            return {PurePosixPath(m.name).stem: archive.extractfile(m).read() for m in files}  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is no readable tar archive ({error}): set reward.databases to a folder of "
            ".sqlite files or a tar archive of them, or --databases on the command line"
        ) from error
