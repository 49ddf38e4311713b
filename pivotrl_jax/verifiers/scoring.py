"""From a line of JSON to a line of JSON: the reward of one output for one pivot row."""

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers import verifier as strict_verifier
from pivotrl_jax.verifiers.compatible import multi_harness, swe_pivot, terminus, tool_args
from pivotrl_jax.verifiers.compatible.options import read_options
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.recipe import Recipe, reward
from pivotrl_jax.verifiers.recipes import DEFAULT
from pivotrl_jax.verifiers.rows import expert_turn, sampled_action
from pivotrl_jax.verifiers.verdict import Verifier

MODES = ("strict", "compatible")

# A pivot row, the Responses output items of a sample, the line's own options.
Scorer = Callable[[Mapping[str, Any], Any, Any], Result]

_MAX_ERROR = 400  # characters; a message may quote what a model wrote


@dataclasses.dataclass(frozen=True)
class _Compatible:
    """A compatible verifier, upstream's default options and the one that --threshold sets.

    `plain` are the options of lines without a config of their own, where not the default ones.
    """

    score: Callable[[Mapping[str, Any], Any, Any], Result]
    defaults: Any
    threshold: str
    plain: Any = None


COMPATIBLE: Mapping[str, _Compatible] = MappingProxyType(
    {
        "tool_args": _Compatible(
            tool_args.score, tool_args.Options(), "word_count_similarity_threshold"
        ),
        "swe_pivot": _Compatible(swe_pivot.score, swe_pivot.Options(), "similarity_full_credit"),
        "terminus": _Compatible(
            terminus.score,
            terminus.Options(),
            "string_similarity_threshold",
            plain=terminus.STRING_ONLY,
        ),
        "multi_harness": _Compatible(
            multi_harness.score, multi_harness.Options(), "string_similarity_threshold"
        ),
    }
)

# What judges the rows of each compatible verifier strictly.
COUNTERPART: Mapping[str, str] = MappingProxyType(
    {
        "tool_args": "tool_call",
        "swe_pivot": "edit",
        "terminus": "terminal",
        "multi_harness": "edit",
    }
)


def scorer(
    verifier: str, mode: str, threshold: float | None = None, databases: str | None = None
) -> Scorer:
    """The verdict of `verifier` on a row and an output; strictly, of its counterpart.

    `threshold` replaces the verifier's similarity threshold; `databases` is where the strict
    verifier "sql" finds them. Raises UserError for an unknown
    verifier, and where there is no such threshold; the scorer raises it for a row or options that
    are wrong.
    """
    verifiers: Sequence[str] = [*COMPATIBLE]
    if mode == "strict":
        verifier = COUNTERPART.get(verifier, verifier)
        verifiers = [*DEFAULT]
    if verifier not in verifiers:
        nearest = difflib.get_close_matches(verifier, verifiers, n=1, cutoff=0.0)[0]
        raise UserError(
            f"no {mode} verifier {verifier!r} among {', '.join(verifiers)}: "
            f"did you mean {nearest!r}?"
        )
    if mode == "compatible":
        return _compatible(COMPATIBLE[verifier], threshold)
    if verifier == "sql" and not databases:
        raise UserError("the strict verifier 'sql' runs the queries: say where with --databases")
    recipe = DEFAULT[verifier]
    if threshold is not None:
        recipe = _with_threshold(verifier, recipe, threshold)
    return _strict(strict_verifier(verifier, databases), recipe)


def score_line(number: int, line: bytes, score: Scorer) -> str:
    """The output line for input line `number`; never raises.

    An input line is {"id", "row", "output"} and optionally "config" (null is none); the output line
    has "id" and "reward", "reason", "criteria", or "id" and "error".
    """
    identity = None
    try:
        record = _record(line)
        identity = record.get("id")
        for field in ("id", "row", "output"):
            if field not in record:
                raise UserError(f"field {field!r} is missing: give id, row and output")
        if not isinstance(record["row"], dict):
            raise UserError("field 'row' is not an object: give a pivot row")
        config = {} if record.get("config") is None else record["config"]
        result = score(record["row"], record["output"], config)
        return json.dumps({"id": identity, **dataclasses.asdict(result)}, allow_nan=False)
    except UserError as error:
        return error_line(number, identity, str(error))
    except Exception as error:
        return error_line(number, identity, f"{type(error).__name__}: {error}")


def lost_line(number: int, line: bytes, why: str) -> str:
    """The output line for an input line whose verdict never came."""
    try:
        return error_line(number, _record(line).get("id"), why)
    except UserError:
        return error_line(number, None, why)


def error_line(number: int, identity: Any, message: str) -> str:
    """The output line for an input line without a verdict."""
    return json.dumps({"id": identity, "error": f"line {number}: {message[:_MAX_ERROR]}"})


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError("not UTF-8: write the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON ({error}): give one object a line") from None
    if not isinstance(record, dict):
        raise UserError("not an object: give id, row and output")
    return record


def _compatible(verifier: _Compatible, threshold: float | None) -> Scorer:
    """A threshold is one of the plain options, which a line's config then changes."""
    plain = verifier.plain or verifier.defaults
    base = verifier.defaults
    if threshold is not None:
        base = plain = read_options(plain, {verifier.threshold: threshold})

    def score(row: Mapping[str, Any], output: Any, config: Any) -> Result:
        return verifier.score(row, output, read_options(base, config) if config != {} else plain)

    return score


def _strict(verifier: Verifier, recipe: Recipe) -> Scorer:
    """Whatever a line's config says: upstream's options mean nothing to a strict verifier."""

    def score(row: Mapping[str, Any], output: Any, config: Any) -> Result:
        expert, context = expert_turn(row)
        verdict = verifier(expert, sampled_action(output), context)
        if verdict.error is not None:
            raise UserError(verdict.error)
        return Result(reward(recipe, verdict.criteria), verdict.reason, verdict.criteria)

    return score


def _with_threshold(verifier: str, recipe: Recipe, threshold: float) -> Recipe:
    if "similarity" not in dict(recipe.accept):
        raise UserError(
            f"the strict verifier {verifier!r} accepts by no similarity: leave --threshold out"
        )
    accept = tuple(
        (name, threshold if name == "similarity" else value) for name, value in recipe.accept
    )
    return dataclasses.replace(recipe, accept=accept)
