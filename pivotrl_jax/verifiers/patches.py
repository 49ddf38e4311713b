"""Edits of files, and reading them from patches."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from rapidfuzz.distance import Indel

_MAX_DIFFED = 2_000  # lines in which to look for unchanged ones
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,\d{1,9})? \+\d")
_FILE = re.compile(r"\*\*\* (Add|Update|Delete) File: (.+)")

Block = tuple[tuple[str, ...], tuple[str, ...]]  # lines removed, lines added


@dataclasses.dataclass(frozen=True)
class Edit:
    """One operation on one file.

    "write" makes `new` its whole text, "replace" puts `new` for `old` (for each if `every`),
    "insert" puts `new` after line `line`, "delete" removes it, "move" renames it to `new`. "view"
    shows the lines from `line` to `last`. A replacement from a unified diff tells in `line` where
    `old` was found.
    """

    action: Literal["write", "replace", "insert", "delete", "move", "view"]
    path: str
    old: str = ""
    new: str = ""
    line: int | None = None
    last: int | None = None
    every: bool = False


def parse_patch(text: str, path: str = "") -> tuple[Edit, ...]:
    """The edits of a unified diff or of an apply_patch text, in order; () where it is neither.

    `path` is the file of a diff without file names.
    """
    edits: list[Edit] = []
    hunk: _Hunk | None = None
    for line in [*text.splitlines(), "*** End"]:
        if hunk is not None and hunk.take(line):
            continue
        edits += hunk.edits() if hunk is not None else []
        hunk = None
        if match := _FILE.match(line):
            path = match[2].strip()
            edits += [Edit("delete", path)] if match[1] == "Delete" else []
            hunk = _Hunk(path, added_file=match[1] == "Add")
        elif line.startswith("*** Move to: "):
            edits.append(Edit("move", path, new=line.removeprefix("*** Move to: ").strip()))
            hunk = _Hunk(path)
        elif line.startswith(("--- ", "+++ ")):
            path = _diff_path(line) or path
            if line == "+++ /dev/null":
                edits.append(Edit("delete", path))
        elif line.startswith("@@"):
            position = _HUNK.match(line)
            hunk = _Hunk(path, line=int(position[1]) if position else None)
    return tuple(edits)


@dataclasses.dataclass
class _Hunk:
    path: str
    added_file: bool = False
    line: int | None = None
    old: list[str] = dataclasses.field(default_factory=list)
    new: list[str] = dataclasses.field(default_factory=list)

    def take(self, line: str) -> bool:
        """Whether `line` belongs to the hunk."""
        if line.startswith(("--- ", "+++ ", "@@", "*** ", "diff ", "\\")):
            return line.startswith("\\")
        sign, body = (line[0], line[1:]) if line else (" ", "")
        self.old += [body] if sign in "- " else []
        self.new += [body] if sign in "+ " else []
        return sign in "+- "

    def edits(self) -> list[Edit]:
        old, new = "\n".join(self.old), "\n".join(self.new)
        if self.added_file or (self.line == 0 and not self.old):
            return [Edit("write", self.path, new=new)]
        return [Edit("replace", self.path, old, new, self.line)] if old or new else []


def _diff_path(line: str) -> str | None:
    name = line[4:].split("\t")[0].strip()
    if name == "/dev/null":
        return None
    return name[2:] if name[:2] in ("a/", "b/") else name


def apply(content: str, first: int, edit: Edit) -> str | None:
    """`content`, which starts at line `first` of its file, after `edit`; None if it has no place.

    A text to be replaced must occur just once, unless the edit says where or that each is meant.
    """
    if edit.action == "write":
        return edit.new
    if edit.action == "insert" and edit.line is not None:
        lines = content.split("\n")
        at = edit.line - first + 1
        inserted = edit.new.removesuffix("\n")
        return "\n".join([*lines[:at], inserted, *lines[at:]]) if 0 <= at <= len(lines) else None
    if edit.action != "replace" or not edit.old:
        return None
    count = content.count(edit.old)
    if count == 1 or (count > 1 and edit.every):
        return content.replace(edit.old, edit.new)
    if count == 0 or edit.line is None:
        return None
    start = min(_starts(content, edit.old), key=lambda at: abs(
        content.count("\n", 0, at) + first - (edit.line or 0)))  # fmt: skip
    return content[:start] + edit.new + content[start + len(edit.old) :]


def _starts(content: str, text: str, most: int = 100) -> Iterator[int]:
    start = content.find(text)
    while start >= 0 and most:
        yield start
        start, most = content.find(text, start + 1), most - 1


def blocks(before: str, after: str) -> tuple[Block, ...]:
    """What is removed and what is added where two texts differ, without white space at line ends.

    Of texts that differ over more than 2,000 lines, one block from first to last difference.
    """
    old, new = ([line.rstrip() for line in text.strip("\n").split("\n")] if text.strip() else []
                for text in (before, after))  # fmt: skip
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    old, new = old[start : len(old) - end], new[start : len(new) - end]
    if max(len(old), len(new)) > _MAX_DIFFED:
        return ((tuple(old), tuple(new)),)
    return tuple(_merged(old, new))


def _merged(old: list[str], new: list[str]) -> Iterator[Block]:
    """Neighbouring deletions and insertions as one block."""
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    for code in Indel.opcodes(old, new):
        if code.tag == "equal":
            if removed or added:
                yield removed, added
            removed = added = ()
        else:
            removed += tuple(old[code.src_start : code.src_end])
            added += tuple(new[code.dest_start : code.dest_end])
    if removed or added:
        yield removed, added
