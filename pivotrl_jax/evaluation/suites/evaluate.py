"""What a policy answers to out-of-domain questions, and what its answers are worth."""

from collections.abc import Sequence

import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from pivotrl_jax.evaluation.suites.answers import chosen, written
from pivotrl_jax.evaluation.suites.questions import Question
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.text import ChatTemplate, Tokenizer

SCHEMA = pa.schema(
    {
        "question_id": pa.string(),
        "suite": pa.string(),
        "score": pa.float64(),
        "parts": pa.list_(pa.bool_()),
        "answer": pa.string(),
        "truncated": pa.bool_(),
        "tokens": pa.int64(),
    }
)


def greedy(max_tokens: int) -> SamplingSettings:
    """The likeliest token each time."""
    return SamplingSettings(top_k=1, max_tokens=max_tokens)


def evaluate_suites(
    params: Params,
    cfg: ModelConfig,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    key: PRNGKeyArray,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
) -> pa.Table:
    """One row per question, in their order, as `SCHEMA` has it: the answer and what it is worth.

    Questions with options are answered by likelihood, the others in writing, as a chat. An answer
    that the cap on tokens cut off is scored as it stands, and marked. Prompts are short: an
    `engine.row_multiple` of their usual length, and as many `slots` as `rows`, waste the least.
    """
    to_write = [question for question in questions if not question.options]
    to_choose = [question for question in questions if question.options]
    policy = (params, cfg)
    wrote = iter(written(*policy, to_write, tokenizer, template, key, sampling, engine, mesh))
    chose = iter(chosen(*policy, to_choose, tokenizer, template, mesh))
    rows = []
    for question in questions:
        answer = next(chose if question.options else wrote)
        parts = list(question.check(answer.text))
        rows.append(
            {
                "question_id": question.id,
                "suite": question.suite,
                "score": float(all(parts)),
                "parts": parts,
                "answer": answer.text,
                "truncated": answer.truncated,
                "tokens": answer.tokens,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)
