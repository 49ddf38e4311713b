"""From sampled tokens to verdicts and rewards, each domain by its own rules."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Float

from pivotrl_jax.objectives import RecipeArrays, compile_recipe, rewards_by_recipe
from pivotrl_jax.parallel import fetch, gather, mine, put_whole
from pivotrl_jax.pivots.rollouts import Rollouts, Turn
from pivotrl_jax.sampling import Sample
from pivotrl_jax.text import ActionFormat, ParsedAction, Tokenizer
from pivotrl_jax.verifiers import Verdict, Verifier, verify_many
from pivotrl_jax.verifiers.recipe import Recipe

Truncated = Literal["exclude", "fail"]


@dataclasses.dataclass(frozen=True)
class Grading:
    """How one domain's samples are read, verified and rewarded.

    `truncated` says what a sample that reached the token cap is: "exclude" takes it out of its
    group, "fail" judges what there is of it.
    """

    fmt: ActionFormat
    verifier: Verifier
    recipe: Recipe
    truncated: Truncated


@dataclasses.dataclass(frozen=True)
class Judging:
    """How every domain is graded. UserError for a recipe that does not fit its verifier."""

    tokenizer: Tokenizer
    domains: Mapping[str, Grading]

    def __post_init__(self) -> None:
        for own in self.domains.values():
            compile_recipe(own.recipe, own.verifier.criteria)

    @cached_property
    def criteria(self) -> list[str]:
        """The names C of all domains' criteria."""
        return list(
            dict.fromkeys(c for own in self.domains.values() for c in own.verifier.criteria)
        )

    @cached_property
    def recipes(self) -> list[RecipeArrays]:
        """Every domain's recipe over the criteria of all, in the order of `domains`."""
        return [compile_recipe(own.recipe, self.criteria) for own in self.domains.values()]


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What the verifiers said of every sample, and what it earns.

    A sample with an error is not valid. Criteria that the verifier of its domain lacks are 0.
    """

    criteria_PKC: Float[np.ndarray, "P K C"]
    rewards_PK: Float[np.ndarray, "P K"]
    valid_PK: Bool[np.ndarray, "P K"]
    malformed_PK: Bool[np.ndarray, "P K"]
    texts: list[list[str]]
    reasons: list[list[str]]
    errors: list[list[str | None]]


@dataclasses.dataclass(frozen=True)
class Checked:
    """One sample's text, what was read of it, and the verdict on that.

    Without a verdict, another process of the run has it.
    """

    text: str
    parsed: ParsedAction
    verdict: Verdict | None


def judge(rollout: Rollouts, judging: Judging) -> Judged:
    """Parses, verifies and rewards every sample."""
    return reward(rollout, verify(rollout, judging), judging)


def verify(rollout: Rollouts, judging: Judging) -> list[list[Checked]]:
    """The verdicts on the K samples of each of P turns.

    Work of the host alone, so that a thread may do it while the devices compute. Several processes
    divide it among themselves: a judge is asked once, and what hangs on a clock is settled once.
    """
    texts = [[_text(sample, judging.tokenizer) for sample in group] for group in rollout.samples]
    found = dict(_verdicts(rollout.turns, texts, judging))
    return [[found[i, j] for j in range(len(group))] for i, group in enumerate(texts)]


def reward(rollout: Rollouts, checked: Sequence[Sequence[Checked]], judging: Judging) -> Judged:
    """What samples with these verdicts earn. Several processes tell each other theirs."""
    verdicts = iter(_together([one.verdict for own in checked for one in own]))
    verdicts_PK = [[next(verdicts) for _ in own] for own in checked]
    shape = (len(rollout.turns), len(rollout.samples[0]))
    criteria_PKC = np.zeros((*shape, len(judging.criteria)), np.float32)
    errors: list[list[str | None]] = [[None] * shape[1] for _ in rollout.turns]
    for i, j in np.ndindex(shape):
        grading, verdict = judging.domains[rollout.turns[i].domain], verdicts_PK[i][j]
        cut = rollout.samples[i][j].truncated and grading.truncated == "exclude"
        errors[i][j] = "truncated" if cut else verdict.error
        if errors[i][j] is None:
            own = grading.verifier.criteria
            criteria_PKC[i, j] = [verdict.criteria[c] if c in own else 0 for c in judging.criteria]
    valid_PK = np.array([[error is None for error in own] for own in errors])
    numbers = {domain: number for number, domain in enumerate(judging.domains)}
    recipe_P = np.array([numbers[turn.domain] for turn in rollout.turns], np.int32)
    arrays = put_whole((criteria_PKC, valid_PK, recipe_P))
    with jax.profiler.TraceAnnotation("reward"):
        rewards_PK = fetch(rewards_by_recipe(*arrays, judging.recipes))
    return Judged(
        criteria_PKC,
        rewards_PK,
        valid_PK,
        malformed_PK=np.array([[bool(one.parsed.problems) for one in own] for own in checked]),
        texts=[[one.text for one in own] for own in checked],
        reasons=[[verdict.reason for verdict in own] for own in verdicts_PK],
        errors=errors,
    )


def _together(own: Sequence[Verdict | None]) -> list[Verdict]:
    """The verdicts of all processes, each of which has those that the others lack."""
    found = zip(*gather(own), strict=True)
    return [next(verdict for verdict in each if verdict is not None) for each in found]


def _text(sample: Sample, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([t for t in sample.tokens.tolist() if t not in tokenizer.ends])


def _verdicts(
    turns: Sequence[Turn], texts: Sequence[Sequence[str]], judging: Judging
) -> Iterator[tuple[tuple[int, int], Checked]]:
    """By turn and number of the sample; domain by domain."""
    for domain, grading in judging.domains.items():
        own = [i for i, turn in enumerate(turns) if turn.domain == domain]
        places = [(i, j) for i in own for j in range(len(texts[i]))]
        parsed = [grading.fmt.parse(texts[i][j]) for i, j in places]
        asked = [
            (turns[i].expert, p, turns[i].context)
            for number, ((i, _), p) in enumerate(zip(places, parsed, strict=True))
            if mine(number)
        ]
        with jax.profiler.TraceAnnotation("verify"):
            verdicts = iter(verify_many(grading.verifier, asked))
        for number, ((i, j), p) in enumerate(zip(places, parsed, strict=True)):
            yield (i, j), Checked(texts[i][j], p, next(verdicts) if mine(number) else None)


def sample_records(rollout: Rollouts, judged: Judged, judging: Judging) -> Iterator[dict[str, Any]]:
    """One record per sample, as `pivots.store.SCHEMA` has it; no reward without a verdict."""
    for i, j in np.ndindex(judged.valid_PK.shape):
        drawn, valid = rollout.samples[i][j], judged.valid_PK[i, j]
        own = judging.domains[rollout.turns[i].domain].verifier.criteria
        values = dict(zip(judging.criteria, map(float, judged.criteria_PKC[i, j]), strict=True))
        yield {
            "candidate_id": rollout.turns[i].id,
            "sample": j,
            "tokens": drawn.tokens.tolist(),
            "text": judged.texts[i][j],
            "length": len(drawn.tokens),
            "drafted": drawn.drafted,
            "truncated": drawn.truncated,
            "malformed": bool(judged.malformed_PK[i, j]),
            "logp": float(drawn.plain.sum(dtype=np.float64)),
            "criteria": json.dumps({name: values[name] for name in own} if valid else {}),
            "reason": judged.reasons[i][j],
            "error": judged.errors[i][j],
            "reward": float(judged.rewards_PK[i, j]) if valid else None,
        }
