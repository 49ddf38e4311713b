"""Shell text into pipelines of simple commands. Nothing is expanded or executed.

`shlex` is not enough: it drops the quotes before it reports operators, so `grep "|" f` and
`grep | f` look the same, and it knows no heredocs.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<blank>    [ \t\r\f\v]+ | \\\r?\n | \#[^\n]* )
    | (?P<heredoc>  <<(?!<)-?[ \t]*["'\\]?(?P<end>[\w.!-]+)["']? )
    | (?P<redirect> (?: \d+(?=[<>]) | &(?=>) )? (?: <<< | <<-? | >> | >& | <& | >\| | <> | [<>] ) )
    | (?P<joint>    && | \|\| | \|&? | ;;? | & | \n | [()] )
    | (?P<word>     (?: \\. | '[^']*' | "(?:\\.|[^"\\])*+" | \$\([^()]*\)
                      | [^\s'"\\;&|<>()] )++ )
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"""'([^']*)'|"((?:\\.|[^"\\])*+)"|\\(.)""", re.DOTALL)
_JOINTS = {"&&": "&&", "||": "||", "&": "&", "": ""}  # any other ends a command like ";"
_EXPANDING = re.compile(r"\$(?=[\w{(])")
_ESCAPED = re.compile(r'\\([$`"\\])|\\\n')


@dataclasses.dataclass(frozen=True)
class Simple:
    """A POSIX simple command: unquoted words, (operator, target) redirections, heredoc bodies."""

    words: tuple[str, ...] = ()
    redirects: tuple[tuple[str, str], ...] = ()
    heredoc: str = ""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Simple commands joined by `|`, and the operator that follows ("&&", "||", ";", "&" or "").

    `depth` counts the brackets around it, each a shell of its own.
    """

    commands: tuple[Simple, ...]
    joint: str = ""
    depth: int = 0


def parse(text: str) -> tuple[Pipeline, ...]:
    """The pipelines of a shell text, in order; comments are dropped.

    Never raises and takes time linear in `text`. Where a quote is never closed, the rest is split
    at white space. Brackets and control words end a command but are not structured further.
    """
    pipelines: list[Pipeline] = []
    commands: list[Simple] = []
    tokens: list[tuple[str, str]] = []
    depth = 0
    for kind, value in itertools.chain(_tokens(text), [("joint", "")]):
        if kind != "joint":
            tokens.append((kind, value))
            continue
        if tokens:
            commands.append(_simple(tokens))
            tokens = []
        if commands and value not in ("|", "|&"):
            pipelines.append(Pipeline(tuple(commands), _JOINTS.get(value, ";"), depth))
            commands = []
        depth = max(0, depth + (value == "(") - (value == ")"))
    return tuple(pipelines)


def _simple(tokens: list[tuple[str, str]]) -> Simple:
    words, redirects, operator = [], [], ""
    for kind, value in tokens:
        if kind == "redirect":
            operator = value
        elif kind == "word" and operator:
            redirects.append((operator, unquote(value)))
            operator = ""
        elif kind == "word":
            words.append(unquote(value))
    heredoc = "".join(value for kind, value in tokens if kind == "heredoc")
    return Simple(tuple(words), tuple(redirects), heredoc)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of every word, redirection operator, heredoc body and joint."""
    position = after_heredocs = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            yield from (("word", word) for word in text[position:].split())
            return
        position = match.end()
        if match["heredoc"]:
            start = after_heredocs or text.find("\n", position) + 1 or len(text)
            body, after_heredocs = _heredoc(text, start, match["end"])
            yield "heredoc", body
        elif match["joint"] == "\n" and after_heredocs:
            position, after_heredocs = after_heredocs, 0
            yield "joint", "\n"
        elif not match["blank"]:
            kind = next(kind for kind in ("redirect", "joint", "word") if match[kind])
            yield kind, match[kind]


def _heredoc(text: str, start: int, delimiter: str) -> tuple[str, int]:
    """The lines up to the one that is `delimiter`, and the position after it."""
    end = re.compile(rf"^\t*{re.escape(delimiter)}[ \t\r]*$", re.MULTILINE).search(text, start)
    return (text[start:], len(text)) if end is None else (text[start : end.start()], end.end())


def unquote(word: str) -> str:
    """Quotes and backslashes removed as the shell does; a lone quote is kept.

    A `$NAME` that the shell would not expand keeps a backslash, so it differs from one that it
    would. Globs are not told apart: nearly always a quoted and an unquoted one mean the same.
    """

    def plain(match: re.Match[str]) -> str:
        single, double, escaped = match.groups()
        if double is not None:
            return _ESCAPED.sub(r"\1", double)
        return escaped if single is None else _EXPANDING.sub(r"\\$", single)

    return _QUOTED.sub(plain, word)
