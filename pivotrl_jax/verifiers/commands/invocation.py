"""The normal form of one simple command: what is run on what, without how it was spelt."""

import dataclasses
import itertools
import posixpath
import re
from collections.abc import Iterator

from pivotrl_jax.verifiers.commands import programs

LAST = 1_000_000  # stands for the last line of a file

_LINES = re.compile(r"(\d{1,6})(?:,(\d{1,6}|\\?\$|\+\d{1,6}))?p")
_NAME_TESTS = ("-name", "-iname", "-path", "-ipath", "-wholename", "-regex")


@dataclasses.dataclass(frozen=True)
class Invocation:
    """One program run. Paths are relative to the root; options are sorted.

    `pattern` is what the program is given to look for or to run: a search pattern, a sed script,
    inline code or a heredoc. `lines` is a 1-based closed interval, negative from the end.
    """

    program: str
    subcommand: str = ""
    options: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    pattern: str = ""
    lines: tuple[int, int] | None = None
    redirects: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [] if self.lines is None else [f"{self.lines[0]},{self.lines[1]}"]
        given = [self.pattern] if self.pattern else []
        head = (*self.context, self.program, self.subcommand, *self.options)
        return " ".join(filter(None, (*head, *given, *lines, *self.operands, *self.redirects)))


@dataclasses.dataclass(frozen=True)
class Place:
    """The directory that counts as the root, and the working directory; both absolute."""

    root: str
    cwd: str

    def resolve(self, word: str) -> str:
        """`word` relative to the root if it can be a path below it, else absolute or as it is."""
        if not word or word.startswith(("-", "~", "$")) or "://" in word or "\n" in word:
            return word
        path = posixpath.normpath(posixpath.join(self.cwd, word))
        inside = path == self.root or path.startswith(self.root.rstrip("/") + "/")
        return posixpath.relpath(path, self.root) if inside else path


def invocation(words: list[str], heredoc: str, place: Place) -> Invocation:
    """The normal form of a command without wrappers, assignments and redirections."""
    name, words = _program(words)
    if name == "find":
        return _find(words, place)
    if name == "python":
        return _python(words, heredoc, place)
    syntax = programs.SYNTAX.get(name)
    if syntax is None:
        return _unknown(name, words, heredoc, place)
    options, operands = _options(words, syntax)
    pattern, subcommand = heredoc, ""
    if syntax.pattern:
        pattern, options, operands = _pattern(options, operands)
    if syntax.subcommand and operands:
        subcommand, operands = _subcommand(operands)
    if not operands and (syntax.implied or (name == "grep" and {"-r", "-R"} & set(options))):
        operands = ["."]
    if name == "sed" and any(option.startswith("-i") for option in options):
        subcommand = "in place"
    resolved = tuple(map(place.resolve, operands))
    if name in programs.DIRECTED and resolved:
        subcommand = f"to {resolved[-1]}"
    return _read(Invocation(name, subcommand, tuple(sorted(set(options))), resolved, pattern))


def _program(words: list[str]) -> tuple[str, list[str]]:
    """The program's plain name and its arguments; `python3 -m pip` is `pip`."""
    if not words:
        return "", []
    name, rest = posixpath.basename(words[0]) or words[0], words[1:]
    name, *extra = programs.ALIASES.get(name, (name,))
    if programs.PIP.fullmatch(name):
        name = "pip"
    if programs.PYTHON.fullmatch(name):
        if len(rest) > 1 and rest[0] == "-m" and rest[1] in programs.MODULES:
            return rest[1], rest[2:]
        name = "python"
    return name, [*extra, *rest]


def _unknown(name: str, words: list[str], heredoc: str, place: Place) -> Invocation:
    # What `echo` prints is all that it does, so its first word counts as a subcommand.
    subcommand = words[0] if name == "echo" and words else ""
    return Invocation(name, subcommand, (), tuple(map(place.resolve, words)), heredoc)


def _options(words: list[str], syntax: programs.Syntax) -> tuple[list[str], list[str]]:
    """(options with their values, operands); bundles such as `-la` are taken apart."""
    options: list[str] = []
    operands: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            operands.extend(rest)
        elif word == "-" or not word.startswith("-"):
            operands.append(word)
        elif word.startswith("--"):
            options.append(_long(word, syntax, rest))
        elif syntax.number and word[1:].isdigit():
            options.append(f"-{syntax.number} {word[1:]}")
        else:
            options.extend(_bundle(word[1:], syntax, rest))
    return options, operands


def _long(word: str, syntax: programs.Syntax, rest: Iterator[str]) -> str:
    """A long option with its value, or the short one that is the same."""
    name, equals, value = word.partition("=")
    letter = syntax.short.get(name[2:], "")
    if not equals and (name[2:] in syntax.long or (letter and letter in syntax.valued)):
        value = next(rest, "")
    if letter and letter in syntax.attached:
        return f"-{letter}{value}"
    return f"{f'-{letter}' if letter else name} {value}".strip()


def _bundle(letters: str, syntax: programs.Syntax, rest: Iterator[str]) -> list[str]:
    options: list[str] = []
    for i, letter in enumerate(letters):
        if letter in syntax.valued:
            value = letters[i + 1 :] or next(rest, "")
            return [*options, f"-{letter} {value}"]
        if letter in syntax.attached:
            return [*options, f"-{letters[i:]}"]
        options.append(f"-{letter}")
    return options


def _pattern(options: list[str], operands: list[str]) -> tuple[str, list[str], list[str]]:
    """(pattern, other options, other operands)."""
    explicit = [option[3:] for option in options if option.startswith("-e ")]
    others = [option for option in options if not option.startswith("-e ")]
    if explicit:
        return "\n".join(explicit), others, operands
    if any(option.startswith("-f ") for option in options):
        return "", others, operands
    return "".join(operands[:1]), others, operands[1:]


def _subcommand(operands: list[str]) -> tuple[str, list[str]]:
    count = 2 if operands[0] in programs.NESTED else 1
    return " ".join(operands[:count]), operands[count:]


def _python(words: list[str], heredoc: str, place: Place) -> Invocation:
    """`subcommand` is the module, the script or "-c" for inline code, heredocs included."""
    starts = (i for i, w in enumerate(words) if w in ("-m", "-c", "-") or not w.startswith("-"))
    start = next(starts, len(words))
    own, runs = words[:start], words[start:]
    if not runs or runs[0] in ("-", "-c"):
        inline = runs[:1] == ["-c"]
        code = runs[1] if inline and len(runs) > 1 else heredoc
        rest = tuple(map(place.resolve, runs[2 if inline else 1 :]))
        return Invocation("python", "-c", tuple(own), rest, code.strip())
    if runs[0] == "-m":
        subcommand, rest_words = f"-m {''.join(runs[1:2])}", runs[2:]
    else:
        subcommand, rest_words = place.resolve(runs[0]), runs[1:]
    if rest_words and {subcommand, posixpath.basename(subcommand)} & programs.NESTED:
        subcommand, rest_words = f"{subcommand} {rest_words[0]}", rest_words[1:]
    rest = tuple(map(place.resolve, rest_words))
    return Invocation("python", subcommand, tuple(own), rest, heredoc)


def _find(words: list[str], place: Place) -> Invocation:
    starts = (i for i, w in enumerate(words) if w.startswith("-") or w in ("!", "("))
    start = next(starts, len(words))
    operands = tuple(map(place.resolve, words[:start] or ["."]))
    expression = [word for word in words[start:] if word != "-print"]
    pairs = list(zip(expression[::2], expression[1::2], strict=False))
    tests = tuple(f"{name} {value}" for name, value in pairs)
    # Tests without operators commute; anything else keeps its order.
    plain = all(n.startswith("-") and not v.startswith("-") and n != "-not" for n, v in pairs)
    if len(expression) % 2 or not plain or {"-o", "-or", "!", "("} & set(expression):
        tests = tuple(expression)
    else:
        tests = tuple(sorted(tests))
    names = [v for n, v in itertools.pairwise(expression) if n in _NAME_TESTS]
    subcommand = "delete" if "-delete" in expression else ""
    return Invocation("find", subcommand, tests, operands, "\n".join(names))


def _read(command: Invocation) -> Invocation:
    """cat, nl, head, tail and `sed -n a,bp` as one program that reads all or some lines."""
    options, operands = command.options, command.operands
    if command.program == "cat" and not command.pattern and operands and options in ((), ("-n",)):
        return dataclasses.replace(command, program="read", subcommand="whole")
    if command.program == "nl" and operands and options == ("-b a",):
        return Invocation("read", "whole", ("-n",), operands)
    lines = _lines(command)
    if lines is None or len(operands) > 1:
        return command
    return Invocation("read", "lines", (), operands, lines=lines)


def _lines(command: Invocation) -> tuple[int, int] | None:
    if command.program == "sed" and command.options == ("-n",):
        match = _LINES.fullmatch(command.pattern)
        if match is None:
            return None
        start, end = int(match[1]), match[2] or match[1]
        if end.endswith("$"):
            return start, LAST
        return start, int(end) + (start if end.startswith("+") else 0)
    if command.program not in ("head", "tail"):
        return None
    value = " ".join(command.options or ("-n 10",)).removeprefix("-n ")
    count = re.fullmatch(r"(\+?)(\d{1,6})", value)
    if count is None or int(count[2]) == 0:
        return None
    if command.program == "head":
        return None if count[1] else (1, int(count[2]))
    return (int(count[2]), LAST) if count[1] else (-int(count[2]), -1)
