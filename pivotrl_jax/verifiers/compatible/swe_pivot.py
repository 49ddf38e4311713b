"""swe_pivot: tool category, then target, then similarity of the arguments."""

import dataclasses
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.ratio import ratio
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.compatible.wire import optional_object, read_output

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "edit": "str_replace_editor text_editor file_editor code_editor edit_file modify_file "
        "update_file file_edit edit modify apply_patch patch_file apply_diff apply_changes write "
        "write_file save_file create_file",
        "bash": "execute_bash run_bash bash_exec shell_run shell bash terminal shell_command "
        "shell_cmd run_shell_cmd exec_command exec_cmd",
        "search": "grep search_text find_pattern text_search glob find_files file_glob match_files "
        "grep_files search_files find_in_files code_search list_dir ls show_dir ls_dir "
        "list_directory",
        "read": "read read_file view_file cat_file view file_view inspect show_file "
        "read_file_content",
        "planning": "task_tracker todo_tracker plan_tracker todo_read todo_write update_plan "
        "list_tasks update_tasks read_todos write_todos edit_plan modify_plan",
        "finish": "finish submit",
        "think": "think",
    }
)
# In snake form and as the words joined, both in lower case.
_CATEGORY: Mapping[str, str] = MappingProxyType(
    {
        form: category
        for category, names in _NAMES.items()
        for name in names.split()
        for form in (name, name.replace("_", ""))
    }
)
_PATH_KEYS = ("path", "file", "file_path", "filename", "file_name")
_COMMAND_KEYS = ("command", "cmd")
# A path has a slash inside or in front and starts the text or follows one of these characters.
_PATH = re.compile(r"""(?:^|[\s='"(])((?:/[\w.-]+)+|[\w.-]+/[\w./-]+)""")
_SHORTEST_PATH = 3  # characters
_FLOOR = 0.3  # of the similarity of two commands, for them to have one target
_RANGE_OVERLAP = 0.8
_MAX_COMPARED = 2_000  # characters
_FULL_SIZE = 500  # characters of an edit from which on the size factor is constant


@dataclasses.dataclass(frozen=True)
class Options:
    """Upstream's options. `similarity_threshold` is for partial credit, in `continuous` mode only,
    as is the size factor; `similarity_full_credit` decides in `binary` mode.
    """

    reward_mode: str = dataclasses.field(
        default="binary", metadata={"choices": ("binary", "continuous")}
    )
    enable_target_match: bool = True
    enable_argument_similarity: bool = True
    similarity_threshold: float = 0.4
    similarity_full_credit: float = 0.8
    enable_diff_size_shaping: bool = True
    diff_size_alpha: float = 0.1


@dataclasses.dataclass(frozen=True)
class _Call:
    """`arguments` is decoded JSON, not always an object."""

    name: str
    category: str
    arguments: Any


def score(row: Mapping[str, Any], items: Any, options: Options) -> Result:
    """The verdict on the first function call of Responses output `items`.

    Criteria, as far as they are reached: `name` (level 0), `target` (1), `similarity` (2), and
    `size`, the factor of level 4. Raises UserError for a row or an output that is none.
    """
    output = read_output(items)
    _check_row(row)
    criteria: dict[str, float] = {}
    try:
        expected = _expected_call(row)
        if expected is None:
            return Result(0.0, "expected_action_invalid")
        if not output.calls:
            return Result(0.0, "model_output_invalid")
        sampled = _decoded(output.calls[0].name, output.calls[0].arguments)
        reward, reason = _levels(sampled, expected, options, criteria)
    except Exception:  # upstream scores its own failures as 0
        reward, reason = 0.0, "unknown_error"
    return Result(reward, reason, criteria)


def _check_row(row: Mapping[str, Any]) -> None:
    optional_object(row, "expected_action")
    optional_object(row, "metadata")
    if not isinstance(row.get("expected_answer", ""), str | None):
        raise UserError("row.expected_answer is not text: give a string")


def _expected_call(row: Mapping[str, Any]) -> _Call | None:
    """The first function call among expected_action, expected_answer, metadata.expected_action."""
    if (action := _function_call(row.get("expected_action"))) is not None:
        return _decoded(action["name"], action.get("arguments", ""))
    try:
        action = _function_call(json.loads(row.get("expected_answer") or "null"))
        if action is not None:
            return _decoded(action["name"], action.get("arguments", ""))
    except (json.JSONDecodeError, KeyError):
        pass
    action = _function_call((row.get("metadata") or {}).get("expected_action"))
    return None if action is None else _decoded(action["name"], action.get("arguments", ""))


def _function_call(action: Any) -> dict[str, Any] | None:
    is_call = isinstance(action, dict) and action.get("type") == "function_call"
    return action if is_call else None


def _decoded(name: str, arguments: Any) -> _Call:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = {}
    elif not isinstance(arguments, dict):
        arguments = {}
    return _Call(name, _CATEGORY.get(name.lower(), "unknown"), arguments)


def _levels(
    sampled: _Call, expected: _Call, options: Options, criteria: dict[str, float]
) -> tuple[float, str]:
    """Reward and reason; `criteria` is filled level by level."""
    criteria["name"] = float(_same_tool(sampled, expected))
    if not criteria["name"]:
        return 0.0, "tool_name_mismatch"
    if options.enable_target_match:
        criteria["target"] = float(_same_target(sampled, expected))
        if not criteria["target"]:
            return 0.0, "target_mismatch"
    reward = 1.0
    if options.enable_argument_similarity:
        criteria["similarity"] = similarity = _similarity(sampled, expected)
        reward = _credit(similarity, options)
        if not reward:
            return 0.0, "similarity_below_threshold"
    if options.enable_diff_size_shaping and options.reward_mode == "continuous":
        criteria["size"] = 1.0 - _size_penalty(sampled, options.diff_size_alpha)
        reward *= criteria["size"]
    return reward, "none"


def _credit(similarity: float, options: Options) -> float:
    low, full = options.similarity_threshold, options.similarity_full_credit
    if similarity >= full:
        return 1.0
    if options.reward_mode == "continuous" and similarity >= low:
        return 0.5 + 0.5 * (similarity - low) / (full - low)
    return 0.0


def _same_tool(sampled: _Call, expected: _Call) -> bool:
    if sampled.name.lower() == expected.name.lower():
        return True
    return sampled.category == expected.category != "unknown"


def _same_target(sampled: _Call, expected: _Call) -> bool:
    categories = (sampled.category, expected.category)
    if categories == ("edit", "edit"):
        return _same_edit_target(sampled.arguments, expected.arguments)
    if categories == ("bash", "bash"):
        return _same_command_target(sampled.arguments, expected.arguments)
    if all(category in ("search", "read") for category in categories):
        one, other = (_first(call.arguments, _PATH_KEYS) for call in (sampled, expected))
        return not (one and other) or _suffix(one, 3) == _suffix(other, 3)
    return True


def _same_edit_target(sampled: Any, expected: Any) -> bool:
    one, other = (str(arguments.get("command", "")) for arguments in (sampled, expected))
    if one and other and one != other:
        return False
    path, other_path = _first(sampled, _PATH_KEYS), _first(expected, _PATH_KEYS)
    if path and other_path and _suffix(path, 2) != _suffix(other_path, 2):
        return False
    if one != "view" or other != "view":
        return True
    lines, wanted = (_line_range(arguments.get("view_range")) for arguments in (sampled, expected))
    if lines is None or wanted is None:
        return True
    shared = max(0, min(lines[1], wanted[1]) - max(lines[0], wanted[0]))
    return shared / max(1, wanted[1] - wanted[0]) >= _RANGE_OVERLAP


def _same_command_target(sampled: Any, expected: Any) -> bool:
    one, other = _first(sampled, _COMMAND_KEYS), _first(expected, _COMMAND_KEYS)
    if not one or not other:
        return True
    verb, wanted_verb = _verb(one), _verb(other)
    if verb and wanted_verb and verb != wanted_verb:
        return False
    paths, wanted_paths = _path_suffixes(one), _path_suffixes(other)
    if paths and wanted_paths and not paths & wanted_paths:
        return False
    return _capped_ratio(one, other) >= _FLOOR


def _similarity(sampled: _Call, expected: _Call) -> float:
    one, other = sampled.arguments, expected.arguments
    categories = (sampled.category, expected.category)
    if categories == ("edit", "edit"):
        return _edit_similarity(one, other)
    if categories == ("bash", "bash"):
        command, wanted = _first(one, _COMMAND_KEYS), _first(other, _COMMAND_KEYS)
        return _capped_ratio(command, wanted) if command and wanted else 1.0
    return 1.0


def _edit_similarity(sampled: Any, expected: Any) -> float:
    """The lesser similarity of the old and the new strings, where both sides have any."""
    old, new = str(sampled.get("old_str", "")), str(sampled.get("new_str", ""))
    wanted_old, wanted_new = str(expected.get("old_str", "")), str(expected.get("new_str", ""))
    if (old or new) and (wanted_old or wanted_new):
        return min(_present_ratio(old, wanted_old), _present_ratio(new, wanted_new))
    return _present_ratio(_edit_content(sampled), _edit_content(expected))


def _edit_content(arguments: Any) -> str:
    if "new_str" in arguments:
        return f"{arguments.get('old_str', '')}\n{arguments['new_str']}"
    return next(
        (
            str(arguments[key])
            for key in ("patch", "diff", "content", "file_text")
            if key in arguments
        ),
        "",
    )


def _size_penalty(sampled: _Call, alpha: float) -> float:
    if sampled.category != "edit":
        return 0.0
    return alpha * min(len(_edit_content(sampled.arguments)) / _FULL_SIZE, 1.0)


def _present_ratio(sampled: str, expected: str) -> float:
    if sampled and expected:
        return _capped_ratio(sampled, expected)
    return float(sampled == expected)


def _capped_ratio(sampled: str, expected: str) -> float:
    return ratio(sampled[:_MAX_COMPARED], expected[:_MAX_COMPARED])


def _first(arguments: Any, keys: tuple[str, ...]) -> str:
    return next((str(arguments[key]).strip() for key in keys if key in arguments), "")


def _suffix(path: str, components: int) -> str:
    return "/".join(path.strip("/").split("/")[-components:])


def _path_suffixes(command: str) -> set[str]:
    paths = [path for path in _PATH.findall(command) if len(path) >= _SHORTEST_PATH]
    return {_suffix(path, 3) for path in paths if not path.startswith("--")} - {""}


def _verb(command: str) -> str:
    return command.split()[0].rpartition("/")[2]


def _line_range(given: Any) -> tuple[int, int] | None:
    """A list of two, or its JSON text; anything else is no range. The end is exclusive."""
    try:
        parsed = json.loads(given) if isinstance(given, str) else given
        if isinstance(parsed, list) and len(parsed) == 2:
            return int(parsed[0]), int(parsed[1])
    except (ValueError, TypeError):
        pass
    return None
