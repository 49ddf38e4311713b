"""What an agent's calls do to files, and what a dialogue has shown of them."""

import dataclasses
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pivotrl_jax.trajectories.schema import Message, ToolCall
from pivotrl_jax.verifiers.commands.calls import SHELLS, shell_text
from pivotrl_jax.verifiers.commands.invocation import LAST, Invocation
from pivotrl_jax.verifiers.commands.normal import normalise
from pivotrl_jax.verifiers.patches import Edit, apply, parse_patch

_MAX_FILE = 400_000  # characters; larger results are not read
_MAX_COMMAND = 16_000  # characters
_PATHS = ("path", "file_path", "filePath", "file", "filename", "file_name")
_OLD = ("old_str", "old_string", "oldString", "old_text", "oldText")
_NEW = ("new_str", "new_string", "newString", "new_text", "newText")
_CONTENTS = ("file_text", "content", "contents", "text")
_PATCHES = ("patch", "diff", "input", "patch_text", "patchText")
_COMMANDS = ("command", "cmd")
_VIEWS = frozenset({"view", "read", "readfile", "viewfile", "openfile", "catfile"})
# Tools of agent harnesses whose arguments mean what this module takes them for.
_EDITORS = _VIEWS | {
    "strreplaceeditor", "strreplacebasededittool", "strreplace", "edit", "editfile", "multiedit",
    "insert", "write", "writefile", "create", "createfile", "applypatch", "patch",
}  # fmt: skip
_NUMBERED = re.compile(r" {0,12}(\d{1,7})(?:\t|\||: |:$)(.*)", re.DOTALL)
_REFUSED = re.compile(
    r"\s*(?:<\w{0,20}error>|error|failed|no replacement|invalid|.{0,40}not found)", re.IGNORECASE
)
# Programs that leave the files as they are, unless their output goes to one.
_READING = frozenset(
    {"read", "cat", "grep", "ls", "find", "head", "tail", "wc", "sort", "uniq", "cut", "tree",
     "diff", "echo", "pwd", "pytest", "awk", "sed", "nl", "which", "true"}
)  # fmt: skip
_READING_GIT = frozenset({"status", "diff", "log", "show", "branch", "grep", "blame"})


@dataclasses.dataclass(frozen=True)
class Shown:
    """Consecutive lines of a file, from line `first` on."""

    text: str
    first: int = 1


def is_familiar(name: str) -> bool:
    """Whether a tool of that name is known to edit, view or run commands."""
    return name in SHELLS or _bare(name) in _EDITORS


def _bare(name: str) -> str:
    return name.replace("_", "").casefold()


def command_of(call: ToolCall) -> str | None:
    """The shell text of a call that has one and names no file."""
    if _first(call.arguments, _PATHS) is not None:
        return None
    only = only_command_of(call)
    return _first(call.arguments, _COMMANDS) if only is None else only


def only_command_of(call: ToolCall) -> str | None:
    """The shell text of a call that does nothing but run it."""
    return shell_text(call, _COMMANDS)


def edits_of(call: ToolCall, root: str) -> tuple[Edit, ...]:
    """The edits and views of a call whose arguments are an object; () where it is something else.

    Tools are known by the names of their arguments: str_replace_editor and its like, apply_patch,
    write_file, and shell commands that are no more than a heredoc to a file or to apply_patch.
    """
    found = _shell_edits(command_of(call), root)
    found = found or tuple(_tool_edits(call.name, call.arguments))
    absolute = ((edit, posixpath.normpath(posixpath.join(root, edit.path))) for edit in found)
    return tuple(dataclasses.replace(edit, path=path) for edit, path in absolute)


def _tool_edits(name: str, arguments: dict[str, Any]) -> Iterator[Edit]:
    path, action = _first(arguments, _PATHS), arguments.get("command")
    old, new = _first(arguments, _OLD), _first(arguments, _NEW)
    patch, content = _first(arguments, _PATCHES), _first(arguments, _CONTENTS)
    if patch is not None:
        yield from parse_patch(patch, path or "")
    elif path is None:
        return
    elif isinstance(several := arguments.get("edits"), list):
        for each in several:
            if isinstance(each, dict):
                yield from _tool_edits("", {**each, "path": path, "edits": None})
    elif action == "view" or _bare(name) in _VIEWS:
        yield _view(path, arguments)
    elif isinstance(line := arguments.get("insert_line"), int) and new is not None:
        yield Edit("insert", path, new=new, line=line)
    elif old:
        every = any(arguments.get(key) is True for key in ("replace_all", "replaceAll"))
        yield Edit("replace", path, old, new or "", every=every)
    elif content is not None or old == "":
        yield Edit("write", path, new=(content or new or ""))


def _view(path: str, arguments: dict[str, Any]) -> Edit:
    match arguments.get("view_range"), arguments.get("offset"), arguments.get("limit"):
        case ([int(first), int(last)], _, _):
            return Edit("view", path, line=first, last=LAST if last < 0 else last)
        case (_, int(first), int(count)):
            return Edit("view", path, line=first, last=first + count - 1)
        case (_, None, int(count)):
            return Edit("view", path, line=1, last=count)
        case (_, int(first), _):
            return Edit("view", path, line=first, last=LAST)
    return Edit("view", path, line=1, last=LAST)


def _shell_edits(command: str | None, root: str) -> tuple[Edit, ...]:
    forms = normalise(command[:_MAX_COMMAND], root) if command else ()
    if len(forms) != 1 or len(forms[0].stages) != 1 or len(command or "") > _MAX_COMMAND:
        return ()
    stage = forms[0].stages[0]
    if stage.program == "apply_patch" and stage.pattern:
        return parse_patch(stage.pattern)
    if stage.program == "write" and stage.subcommand == ">" and not stage.context:
        return (Edit("write", stage.operands[0], new=stage.pattern),)
    first, last = stage.lines or (1, LAST)
    if stage.program == "read" and len(stage.operands) == 1 and first > 0 and not stage.redirects:
        return (Edit("view", stage.operands[0], line=first, last=last),)
    return ()


def known_files(history: Sequence[Message], paths: set[str], root: str) -> dict[str, Shown]:
    """What the dialogue has shown or written of the files `paths`, as its later edits leave it.

    A command that does more than read makes unknown again the files that it names, and git or
    patch all of them; an edit that was refused changes nothing.
    """
    known: dict[str, Shown] = {}
    for i, message in enumerate(history):
        results = _results(history, i) if message.calls else []
        for call, result in zip(message.calls, results, strict=False):
            if isinstance(call.arguments, dict):
                _learn(known, call, result, root)
    return {path: shown for path, shown in known.items() if path in paths}


def _learn(known: dict[str, Shown], call: ToolCall, result: Message, root: str) -> None:
    edits, command = edits_of(call, root), command_of(call)
    path = _first(call.arguments, _PATHS)
    if command is not None and not edits:
        for name in [name for name in known if _may_change(command, name, root)]:
            del known[name]
    elif not edits and path is not None:
        known.pop(posixpath.normpath(posixpath.join(root, path)), None)
    for edit in () if _failed(result) else edits:
        before = known.pop(edit.path, None)
        after = _shown_after(before, edit, result.content)
        known |= {edit.path: after} if after is not None else {}


def _shown_after(before: Shown | None, edit: Edit, result: str) -> Shown | None:
    if edit.action == "write":
        return Shown(edit.new)
    if edit.action == "view":
        shown = _unnumbered(_inner(result), edit.line or 1)
        # Looking again at a part of what is known tells nothing new.
        return before if before and shown.text in before.text else shown
    after = None if before is None else apply(before.text, before.first, edit)
    return None if before is None or after is None else Shown(after, before.first)


def _results(history: Sequence[Message], index: int) -> list[Message]:
    """One message per call: what the environment said between this turn and the next."""
    end = index + 1
    while end < len(history) and history[end].role in ("tool", "user"):
        end += 1
    return list(history[index + 1 : end])


def _failed(result: Message) -> bool:
    return result.failed or len(result.content) > _MAX_FILE or bool(_REFUSED.match(result.content))


def _inner(result: str) -> str:
    """The text itself where a harness wraps it in <output> or in a JSON object's "content"."""
    start, end = result.find("<output>"), result.rfind("</output>")
    if 0 <= start < end:
        return result[start + len("<output>") : end].removeprefix("\n")
    try:
        content = json.loads(result)["content"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return result
    return content if isinstance(content, str) else result


def _unnumbered(text: str, first: int) -> Shown:
    """The longest run of lines with consecutive numbers, without them; else the text as it is.

    `first` is the number of the first line where none is shown.
    """
    best: tuple[int, list[str]] = (1, [])
    run: tuple[int, list[str]] = (1, [])
    for line in text.split("\n"):
        match = _NUMBERED.fullmatch(line)
        if match is None:
            continue
        if int(match[1]) != run[0] + len(run[1]):
            run = (int(match[1]), [])
        run[1].append(match[2])
        best = max(best, run, key=lambda each: len(each[1]))
    return Shown("\n".join(best[1]), best[0]) if best[1] else Shown(text, first)


def _may_change(command: str, path: str, root: str) -> bool:
    forms = normalise(command[:_MAX_COMMAND], root)
    programs = {stage.program for form in forms for stage in form.stages if not _reads(stage)}
    unread = len(command) > _MAX_COMMAND
    return bool(programs & {"git", "patch", "apply_patch"}) or (
        posixpath.basename(path) in command and (bool(programs) or unread)
    )


def _reads(stage: Invocation) -> bool:
    written = any(r.startswith(">") and r != "> /dev/null" for r in stage.redirects)
    changes = stage.subcommand in ("in place", "delete")
    git = stage.program == "git" and stage.subcommand.split(" ")[0] in _READING_GIT
    return not written and not changes and (git or stage.program in _READING)


def _first(arguments: dict[str, Any], names: Sequence[str]) -> str | None:
    """The first of the arguments `names` that is a text."""
    texts = (arguments[name] for name in names if isinstance(arguments.get(name), str))
    return next(texts, None)
