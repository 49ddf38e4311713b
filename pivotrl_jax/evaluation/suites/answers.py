"""How a policy answers: in writing, or by what it holds likeliest."""

import dataclasses
import zlib
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pivotrl_jax.evaluation.suites.questions import Question, prompt_text
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import fetch, put_rows, row_shards
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, sample
from pivotrl_jax.text import ChatTemplate, Tokenizer
from pivotrl_jax.training.update import token_logprobs
from pivotrl_jax.trees import TokenTree, Tree, build_row, chunks, round_up, stack

# Rows of one call that scores options, and what its rows are rounded to.
_ROWS, _MULTIPLE = 4, 128


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a policy answered in `tokens` tokens; `truncated` where the cap cut it off."""

    text: str
    truncated: bool = False
    tokens: int = 0


def written(
    params: Params,
    cfg: ModelConfig,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    key: PRNGKeyArray,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
) -> list[Answer]:
    """One sampled answer to every question, in their order."""
    prompts = [np.asarray(tokenizer.encode(prompt_text(q, template)), np.int32) for q in questions]
    found: dict[int, Answer] = {}
    for numbers in _by_length([len(prompt) for prompt in prompts], engine):
        requests = [
            [Request(len(prompts[i]), len(prompts[i]), zlib.crc32(questions[i].id.encode()), 0)]
            for i in numbers
        ]
        served = sample(
            params, cfg, [prompts[i] for i in numbers], requests, key, tokenizer.ends, sampling,
            engine, mesh,
        )  # fmt: skip
        for place, (drawn,) in served:
            found[numbers[place]] = _answer(drawn, tokenizer)
    return [found[i] for i in range(len(questions))]


def _answer(drawn: Sample, tokenizer: Tokenizer) -> Answer:
    said = [token for token in drawn.tokens.tolist() if token not in tokenizer.ends]
    return Answer(tokenizer.decode(said), drawn.truncated, len(drawn.tokens))


def _by_length(lengths: Sequence[int], engine: EngineSettings) -> list[list[int]]:
    """Numbers of the prompts to sample together: a prompt's row is as long as its bucket's longest.

    Widths double from bucket to bucket, and one that would not fill the engine's rows takes in the
    next: every bucket is a program of its own to compile.
    """
    buckets: list[list[int]] = []
    width = 0
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if lengths[number] > width and (not buckets or len(buckets[-1]) >= engine.rows):
            buckets.append([])
        while lengths[number] > width:
            width = max(2 * width, engine.row_multiple)
        buckets[-1].append(number)
    return buckets


def chosen(
    params: Params,
    cfg: ModelConfig,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    mesh: Mesh,
) -> list[Answer]:
    """The option of every question with the highest log-prob per character, in their order.

    A question is one tree: its prompt is the trunk and its options are the branches.
    """
    trees = [_options_tree(question, tokenizer, template) for question in questions]
    order = sorted(range(len(trees)), key=lambda i: len(trees[i].trunk) + trees[i].own)
    found: dict[int, Answer] = {}
    for numbers in chunks(order, round_up(_ROWS, row_shards(mesh))):
        scores = _option_scores(params, cfg, [trees[i] for i in numbers], mesh)
        for i, logp in zip(numbers, scores, strict=True):
            options = questions[i].options
            per_character = logp / [max(len(option), 1) for option in options]
            found[i] = Answer(options[int(np.argmax(per_character))])
    return [found[i] for i in range(len(questions))]


def _options_tree(question: Question, tokenizer: Tokenizer, template: ChatTemplate) -> Tree:
    prompt = np.asarray(tokenizer.encode(prompt_text(question, template)), np.int32)
    options = [np.asarray(tokenizer.encode(option), np.int32) for option in question.options]
    return Tree(prompt, [(len(prompt), option) for option in options])


def _option_scores(
    params: Params, cfg: ModelConfig, trees: Sequence[Tree], mesh: Mesh
) -> list[np.ndarray]:
    """Of each tree, the log-prob of every branch; a last batch is filled up with its first tree."""
    own = round_up(max(tree.own for tree in trees), _MULTIPLE)
    size = own + round_up(max(len(tree.trunk) for tree in trees), _MULTIPLE)
    missing = -len(trees) % round_up(_ROWS, row_shards(mesh))
    full = [*trees, *[trees[0]] * missing]
    rows = [build_row([tree], size) for tree in full]
    index_RA = np.stack([len(tree.trunk) + np.arange(own, dtype=np.int32) for tree in full])
    logp_RA = fetch(_logprobs(params, cfg, *put_rows((stack(rows), index_RA), mesh)))
    return [
        np.array([part.sum() for part in np.split(logp, _ends(tree))[:-1]])
        for tree, logp in zip(trees, logp_RA, strict=False)
    ]


def _ends(tree: Tree) -> np.ndarray:
    return np.cumsum([len(suffix) for _, suffix in tree.branches])


@partial(jax.jit, static_argnames="cfg")
def _logprobs(
    params: Params, cfg: ModelConfig, tree: TokenTree, index_RA: Int[Array, "R A"]
) -> Float[Array, "R A"]:
    return token_logprobs(params, cfg, tree, index_RA).logp_T
