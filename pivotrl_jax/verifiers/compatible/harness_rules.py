"""What each agent harness compares of a tool's arguments."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.verifiers.compatible.ratio import ratio

Arguments = Mapping[str, Any]

MATCH = "EXPECTED_TOOL_CALL"
MISMATCH = "ARGUMENT_VALUE_MISMATCH"


@dataclasses.dataclass(frozen=True)
class Found:
    """Upstream's category and, where the rule takes one, the similarity."""

    category: str
    similarity: float | None = None


# Expected arguments, actual arguments, similarity threshold.
Rule = Callable[[Arguments, Arguments, float], Found]


def rule(harness: str, tool: str) -> Rule | None:
    """The rule for `tool` in `harness`; without one, name, keys and schema decide."""
    return _RULES.get(harness, {}).get(tool)


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _web(text: str) -> str:
    return text.lower().strip()


def _both(expected: Arguments, actual: Arguments, name: str) -> tuple[Any, Any]:
    return expected.get(name), actual.get(name)


@dataclasses.dataclass(frozen=True)
class _Similar:
    """One text argument by difflib's ratio, gold first; `missing` where either side has no text.

    `blank` says which texts count as none.
    """

    argument: str
    missing: str
    below: str
    normal: Callable[[str], str] = str
    blank: Callable[[str], bool] = lambda text: False

    def __call__(self, expected: Arguments, actual: Arguments, threshold: float) -> Found:
        texts = _both(expected, actual, self.argument)
        if any(not isinstance(text, str) or self.blank(text) for text in texts):
            return Found(self.missing)
        gold, own = (self.normal(text) for text in texts)
        return _judge(ratio(gold, own), threshold, self.below)


@dataclasses.dataclass(frozen=True)
class _Same:
    """Arguments that must be equal, or be missing on both sides."""

    arguments: tuple[str, ...]

    def __call__(self, expected: Arguments, actual: Arguments, threshold: float) -> Found:
        same = all(expected.get(name) == actual.get(name) for name in self.arguments)
        return Found(MATCH if same else MISMATCH)


def _judge(similarity: float, threshold: float, below: str) -> Found:
    return Found(MATCH if similarity >= threshold else below, similarity)


def _plan(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    plan = actual.get("plan")
    if isinstance(plan, str):
        plan = plan.strip()
    empty = plan is None or plan in ("", [], {})
    return Found("UPDATE_PLAN_EMPTY_PLAN" if empty else MATCH)


def _edit(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    # Upstream leaves the strings themselves uncompared.
    if actual.get("oldString") == actual.get("newString"):
        return Found(MISMATCH)
    return _Same(("filePath", "replaceAll"))(expected, actual, threshold)


def _todos(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    gold, own = expected.get("todos"), actual.get("todos")
    if gold == []:
        return Found(MATCH if own == [] else MISMATCH)
    if not isinstance(gold, list) or not isinstance(own, list):
        return Found("TODOWRITE_EMPTY_TODOS")
    same = len(gold) == len(own) and all(map(_same_todo, gold, own))
    return Found(MATCH if same else MISMATCH)


def _same_todo(gold: Any, own: Any) -> bool:
    if not isinstance(gold, dict) or not isinstance(own, dict):
        return False
    return all(gold.get(name) == own.get(name) for name in ("status", "priority"))


def _result(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    results = _both(expected, actual, "result")
    gold, own = (json.dumps(result, sort_keys=True) for result in results)
    return _judge(ratio(gold, own), threshold, "RETURN_RESULT_SIMILARITY_BELOW_THRESHOLD")


def _page(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    urls = _both(expected, actual, "url")
    if any(not isinstance(url, str) or not url for url in urls):
        return Found("FETCH_WEB_PAGE_MISSING_URL")
    gold, own = map(_web, urls)
    return Found(MATCH if gold == own else "FETCH_WEB_PAGE_URLS_DO_NOT_MATCH")


def _finish(expected: Arguments, actual: Arguments, threshold: float) -> Found:
    reasons = _both(expected, actual, "reason")
    if any(not isinstance(reason, str) or not reason for reason in reasons):
        return Found("FINISH_MISSING_REASON")
    paths = _both(expected, actual, "paths")
    if not all(map(_has_paths, paths)):
        return Found("FINISH_MISSING_PATHS")
    gold_paths, own_paths = (sorted(path.strip() for path in each) for each in paths)
    if gold_paths != own_paths:
        return Found("FINISH_PATHS_DO_NOT_MATCH")
    gold, own = map(_web, reasons)
    # The one place where upstream passes the rollout first.
    return _judge(ratio(own, gold), threshold, "FINISH_REASON_SIMILARITY_BELOW_THRESHOLD")


def _has_paths(paths: Any) -> bool:
    return isinstance(paths, list) and bool(paths) and all(isinstance(path, str) for path in paths)


_COMMAND = _Similar(
    "cmd",
    "EXEC_COMMAND_MISSING_CMD",
    "EXEC_COMMAND_CMD_SIMILARITY_BELOW_THRESHOLD",
    normal=_newlines,
)
_RULES: Mapping[str, Mapping[str, Rule]] = MappingProxyType(
    {
        "codex": {"exec_command": _COMMAND, "update_plan": _plan},
        "opencode": {
            "bash": _Similar(
                "command",
                "BASH_MISSING_COMMAND",
                "BASH_COMMAND_SIMILARITY_BELOW_THRESHOLD",
                normal=_newlines,
            ),
            "read": _Same(("filePath",)),
            "write": _Same(("filePath",)),
            "edit": _edit,
            "glob": _Same(("pattern", "path")),
            "grep": _Same(("pattern", "path", "include")),
            "webfetch": _Same(("url", "format")),
            "skill": _Same(("name",)),
            "task": _Same(("subagent_type",)),
            "todowrite": _todos,
        },
        "agent006": {
            "execute_python": _Similar(
                "code",
                MISMATCH,
                "EXECUTE_PYTHON_CODE_SIMILARITY_BELOW_THRESHOLD",
                blank=lambda code: not code.strip(),
            ),
            "return_result": _result,
        },
        "stirrup": {
            "code_exec": _COMMAND,
            "web_search": _Similar(
                "query",
                "WEB_SEARCH_MISSING_QUERY",
                "WEB_SEARCH_QUERY_SIMILARITY_BELOW_THRESHOLD",
                normal=_web,
                blank=lambda query: not query,
            ),
            "fetch_web_page": _page,
            "finish": _finish,
        },
    }
)
