"""What the verifier knows about single programs, as data.

A program that is missing here is compared word by word in order, which is strict but never wrong.
"""

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Syntax:
    """Option syntax of a program whose options may stand in any order.

    `valued`: short options with a value; `attached`: short options whose optional value is glued
    on; `long`: long options whose value may be the next word; `number`: the option that `-20`
    abbreviates; `pattern`: the first operand (or -e) is a pattern or script; `subcommand`: the
    first operand names one; `implied`: no operand means the working directory; `short`: long
    options and the letter that is the same.
    """

    valued: str = ""
    attached: str = ""
    long: tuple[str, ...] = ()
    number: str = ""
    pattern: bool = False
    subcommand: bool = False
    implied: bool = False
    short: Mapping[str, str] = dataclasses.field(default_factory=dict)


_GREP_LONG = ("include", "exclude", "exclude-dir")
_GREP_SHORT = {
    "context": "C", "after-context": "A", "before-context": "B", "max-count": "m", "regexp": "e",
    "file": "f", "line-number": "n", "recursive": "r", "ignore-case": "i", "count": "c",
    "files-with-matches": "l", "invert-match": "v", "word-regexp": "w", "extended-regexp": "E",
    "fixed-strings": "F", "only-matching": "o",
}  # fmt: skip
_PARTS_SHORT = {"lines": "n", "bytes": "c"}

SYNTAX = {
    "grep": Syntax("ABCmefd", long=_GREP_LONG, number="C", pattern=True, short=_GREP_SHORT),
    "sed": Syntax("efl", attached="i", pattern=True, short={
        "quiet": "n", "silent": "n", "expression": "e", "in-place": "i", "regexp-extended": "E"}),
    "awk": Syntax("Fvf", pattern=True),
    "head": Syntax("nc", number="n", short=_PARTS_SHORT),
    "tail": Syntax("nc", number="n", short=_PARTS_SHORT),
    "cat": Syntax(),
    "nl": Syntax("bdfhilnsvw"),
    "wc": Syntax(short={"lines": "l", "words": "w", "bytes": "c", "chars": "m"}),
    "sort": Syntax("kt", short={"numeric-sort": "n", "reverse": "r", "unique": "u", "key": "k"}),
    "uniq": Syntax("fsw"),
    "cut": Syntax("bcdf"),
    "ls": Syntax("I", implied=True, short={
        "all": "a", "almost-all": "A", "recursive": "R", "human-readable": "h", "reverse": "r"}),
    "tree": Syntax("LIPo", implied=True),
    "diff": Syntax("U", number="U"),
    "rm": Syntax(short={"recursive": "r", "force": "f"}),
    "cp": Syntax("t"),
    "mv": Syntax("t"),
    "mkdir": Syntax("m", short={"parents": "p"}),
    "du": Syntax("d", implied=True, short={"summarize": "s", "human-readable": "h"}),
    "curl": Syntax("XHdoAuFebcmwx", long=("data", "header", "request", "output", "user"), short={
        "location": "L", "silent": "s", "data": "d", "header": "H", "request": "X",
        "output": "o"}),
    "wget": Syntax("OPot", short={"quiet": "q", "output-document": "O"}),
    "touch": Syntax("drt"),
    "tee": Syntax(),
    "patch": Syntax("dio", attached="p"),
    "pytest": Syntax("kmnpcWr", long=("maxfail", "tb", "timeout", "durations", "deselect")),
    "git": Syntax("nSGUL", long=("since", "until", "author", "format"), number="n",
                  subcommand=True),
    "pip": Syntax("rcit", long=("requirement", "constraint", "index-url"), subcommand=True),
    "npm": Syntax(subcommand=True),
    "cargo": Syntax(subcommand=True),
    "conda": Syntax("n", long=("name",), subcommand=True),
    "apt-get": Syntax(subcommand=True),
    "apt": Syntax(subcommand=True),
}  # fmt: skip

# Other spellings of a program, with the option that makes up the difference.
ALIASES = {"egrep": ("grep", "-E"), "fgrep": ("grep", "-F"), "gawk": ("awk",), "vdir": ("ls", "-l")}
PYTHON = re.compile(r"python\d*(?:\.\d+)*")
PIP = re.compile(r"pip\d+(?:\.\d+)*")
MODULES = frozenset({"pytest", "pip"})  # `python -m pip` is `pip`

# Programs that only run another one: their valued short options and number of own operands.
WRAPPERS = {
    "sudo": ("ugh", 0),
    "env": ("uC", 0),
    "time": ("fo", 0),
    "timeout": ("ks", 1),
    "nice": ("n", 0),
    "nohup": ("", 0),
    "command": ("", 0),
    "exec": ("", 0),
    "stdbuf": ("ioe", 0),
    "xargs": ("nIPLdsaE", 0),
}
# Control words and brackets that may stand before a command.
KEYWORDS = frozenset({"do", "then", "else", "if", "elif", "while", "until", "!", "{", "time"})

# A second word belongs to the subcommand: `git stash pop`, `manage.py test`.
NESTED = frozenset({"stash", "remote", "worktree", "submodule", "-m django", "manage.py"})

# Later stages of a pipeline that only show what the earlier ones produce.
VIEWERS = frozenset(
    {"read", "head", "tail", "cat", "less", "more", "nl", "wc", "sort", "uniq", "grep", "cut",
     "column", "tr", "awk", "sed"}
)  # fmt: skip
# Programs for which `cat FILE | PROGRAM ...` is `PROGRAM ... FILE`.
FILTERS = frozenset({"grep", "sed", "awk", "wc", "sort", "uniq", "cut", "head", "tail"})
# The working directory changes nothing else for these once their operands are resolved.
PLACELESS = FILTERS | {"read", "write", "cat", "ls", "find", "cp", "mv", "rm"}
# The last operand has a role of its own.
DIRECTED = frozenset({"cp", "mv"})
