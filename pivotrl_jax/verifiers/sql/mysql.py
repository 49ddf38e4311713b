"""MySQL commands as SQLite queries: what an agent writes, in the dialect of the copy it is run on.

Only text is rewritten here. Commands that show the schema become queries of `information_schema`,
which the copy has too.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

MAX_CHARS = 4_000  # the longest of 2,662 expert commands has 487
MAX_TOKENS = 1_000

_TOKEN = re.compile(
    r"""(?P<space>\s+ | --(?=\s|\Z)[^\n]* | \#[^\n]* | /\*.*?\*/)
      | (?P<string>'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*")
      | (?P<name>`[^`]*` | [^\W\d][\w$]*)
      | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)
      | (?P<operator><=>|<=|>=|<>|!=|\|\||&&|.)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "%": "\\%", "_": "\\_"}

# MySQL divides whole numbers without losing the rest.
_OPERATORS = {"||": "OR", "&&": "AND", "<=>": "IS", "/": "* 1.0 /"}
# Comparisons do not see blanks at the end of texts; the copy's columns have lost theirs.
_COMPARISONS = frozenset({"=", "<>", "!=", "<", ">", "<=", ">=", "<=>"})
_WORDS = {"RLIKE": "REGEXP"}
_CAST_TYPES = {"SIGNED": "INTEGER", "UNSIGNED": "INTEGER"}
# Functions whose names SQLite reads as key words unless they are quoted.
_KEYWORD_FUNCTIONS = frozenset({"LEFT", "RIGHT", "IF", "ISNULL", "REPLACE"})

_COMPOUND = frozenset({"UNION", "INTERSECT", "EXCEPT"})
_NAME = r"(?:`?\w+`? \. )?`?(\w+)`?"
_SHOW_TABLES = re.compile(r"SHOW (?:FULL )?TABLES(?: LIKE ('(?:[^']|'')*'))?", re.IGNORECASE)
_DESCRIBE = re.compile(
    rf"(?:(?:DESCRIBE|DESC|EXPLAIN)|SHOW (?:FULL )?(?:COLUMNS|FIELDS) (?:FROM|IN)) {_NAME}",
    re.IGNORECASE,
)
_SHOW_CREATE = re.compile(rf"SHOW CREATE TABLE {_NAME}", re.IGNORECASE)
_SHOW_DATABASES = re.compile(r"SHOW (?:DATABASES|SCHEMAS)", re.IGNORECASE)


class Refused(Exception):
    """A command that does not run on the copy; its one argument says why."""


@dataclasses.dataclass(frozen=True)
class Ordering:
    """The top-level ORDER BY of a query and what is needed to ask for its keys as columns.

    `head` ends before the top-level FROM and `tail` before LIMIT, of which `offset` is kept;
    `open` says whether columns may be appended without changing the rows (no DISTINCT, no UNION).
    """

    head: tuple[str, ...]
    tail: tuple[str, ...]
    terms: tuple[tuple[str, ...], ...]
    offset: int
    open: bool


@dataclasses.dataclass(frozen=True)
class Statement:
    """A command that may be run: `sql` is one SQLite query."""

    kind: Literal["schema", "query"]
    sql: str
    ordering: Ordering | None


def normal(text: str) -> str:
    """`text` up to blanks, comments, quoting and the case of names; too long a text unchanged."""
    if len(text) > MAX_CHARS:
        return text
    return " ".join(token.casefold() if token[0] != "'" else token for token in tokens(text))


def kind(text: str) -> Literal["schema", "query", "other"]:
    """What a command is for, by its first words."""
    words = normal(text[:MAX_CHARS]).split(" ", 2)
    if words[0] in ("show", "describe", "desc"):
        return "schema"
    if words[0] == "explain":
        return "schema" if len(words) == 2 else "other"
    return "query" if words[0] in ("select", "with") else "other"


def translate(text: str) -> Statement:
    """The SQLite form of one MySQL command; raises Refused for what cannot be a query."""
    if len(text) > MAX_CHARS:
        raise Refused(f"longer than {MAX_CHARS} characters")
    found = tokens(text)
    if len(found) > MAX_TOKENS:
        raise Refused(f"more than {MAX_TOKENS} words")
    command, what = " ".join(found), kind(text)
    if what == "schema":
        return Statement("schema", _schema_query(command), None)
    if what == "other":
        raise Refused("not a query")
    written = tuple(_written(found, index) for index in range(len(found)))
    return Statement("query", " ".join(written), _ordering(written))


def tokens(text: str) -> list[str]:
    """Words and signs without comments; text constants in single quotes, no `;` at the end."""
    found = []
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "string":
            found.append(_literal(match[0]))
        elif match.lastgroup != "space":
            found.append(match[0])
    while found and found[-1] == ";":
        found.pop()
    return found


def _literal(quoted: str) -> str:
    """A MySQL text constant in SQLite's spelling: no escapes but a doubled quote."""
    quote, body = quoted[0], quoted[1:-1]
    plain = re.sub(
        rf"{quote}{quote}|\\(.)",
        lambda m: _ESCAPES.get(m[1], m[1]) if m[1] else quote,
        body,
        flags=re.DOTALL,
    )
    return "'" + plain.replace("'", "''") + "'"


def _written(found: Sequence[str], index: int) -> str:
    token, upper = found[index], found[index].upper()
    if token[0] == "'" and index and found[index - 1] in _COMPARISONS:
        return token[:-1].rstrip(" ") + "'"
    following = found[index + 1] if index + 1 < len(found) else ""
    if upper in _KEYWORD_FUNCTIONS and following == "(":
        return f"`{token}`"
    if upper in _CAST_TYPES and index and found[index - 1].upper() == "AS":
        return _CAST_TYPES[upper]
    return _OPERATORS.get(token, _WORDS.get(upper, token))


def _schema_query(command: str) -> str:
    if shown := _SHOW_TABLES.fullmatch(command):
        like = f" WHERE table_name LIKE {shown[1]}" if shown[1] else ""
        return f"SELECT table_name FROM information_schema.tables{like} ORDER BY 1"
    if shown := _DESCRIBE.fullmatch(command):
        return (
            "SELECT column_name, column_type, is_nullable, column_key, column_default "
            f"FROM information_schema.columns WHERE table_name = '{shown[1]}' "
            "ORDER BY ordinal_position"
        )
    if shown := _SHOW_CREATE.fullmatch(command):
        return (
            "SELECT table_name, create_statement FROM information_schema.tables "
            f"WHERE table_name = '{shown[1]}'"
        )
    if _SHOW_DATABASES.fullmatch(command):
        return "SELECT DISTINCT table_schema FROM information_schema.tables"
    raise Refused("no SHOW or DESCRIBE that is known here")


def _ordering(written: tuple[str, ...]) -> Ordering | None:
    top = _top_level(written)
    order = max((i for i in top if written[i].upper() == "ORDER"), default=None)
    if order is None:
        return None
    words = {i: written[i].upper() for i in top}
    source = min((i for i in top if words[i] == "FROM"), default=order)
    limit = min((i for i in top if i > order and words[i] == "LIMIT"), default=len(written))
    distinct = not {"DISTINCT", "DISTINCTROW"}.isdisjoint(words.values())
    return Ordering(
        head=written[:source],
        tail=written[source:limit],
        terms=_terms(written[order + 2 : limit]),
        offset=_offset(written[limit:]),
        open=not distinct and _COMPOUND.isdisjoint(words.values()),
    )


def _top_level(written: Sequence[str]) -> list[int]:
    """Indices of the words outside every bracket."""
    found, depth = [], 0
    for index, word in enumerate(written):
        depth -= word == ")"
        if depth == 0:
            found.append(index)
        depth += word == "("
    return found


def _terms(written: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The comma-separated terms of an ORDER BY without their directions."""
    commas = [i for i in _top_level(written) if written[i] == ","]
    parts = [
        written[start + 1 : end]
        for start, end in zip([-1, *commas], [*commas, len(written)], strict=True)
    ]
    return tuple(
        tuple(part[:-1] if part and part[-1].upper() in ("ASC", "DESC") else part) for part in parts
    )


def _offset(limit: Sequence[str]) -> int:
    """Rows skipped by `LIMIT n`, `LIMIT offset, n` or `LIMIT n OFFSET offset`."""
    numbers = [int(word) for word in limit if word.isdecimal()]
    if len(numbers) != 2:
        return 0
    return numbers[0] if "," in limit else numbers[1]
