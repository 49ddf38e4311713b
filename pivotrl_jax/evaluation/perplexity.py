"""How well the policy still predicts text it was not trained on."""

import gzip
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import fetch, put_rows, row_shards
from pivotrl_jax.text import Tokenizer
from pivotrl_jax.training.update import token_logprobs
from pivotrl_jax.trees import causal, chunks, round_up


def read_texts(directory: Path, limit: int | None) -> dict[str, list[str]]:
    """The first `limit` texts of every `NAME.jsonl.gz` in `directory`, by name."""
    files = sorted(directory.glob("*.jsonl.gz"))
    if not files:
        raise UserError(f"{directory}: no *.jsonl.gz; point evaluation.ood_path at such a folder")
    texts = {}
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts[file.name.removesuffix(".jsonl.gz")] = [json.loads(x)["text"] for x in lines][
                :limit
            ]
    return texts


@partial(jax.jit, static_argnames="cfg")
def _nll(params: Params, cfg: ModelConfig, tokens_RT: jax.Array, weight_RT: jax.Array) -> jax.Array:
    # As many as there are tokens, so that devices can divide them; the last one weighs nothing.
    index = jnp.broadcast_to(jnp.arange(1, tokens_RT.shape[1] + 1), tokens_RT.shape)
    index = jnp.minimum(index, tokens_RT.shape[1] - 1)
    scores = token_logprobs(params, cfg, causal(tokens_RT), index)
    return -jnp.sum(scores.logp_T[:, :-1] * weight_RT[:, 1:])


def perplexity(
    params: Params,
    cfg: ModelConfig,
    texts: Sequence[str],
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    max_tokens: int = 512,
    rows: int = 4,
) -> dict[str, float]:
    """Mean negative log-likelihood per token in nats, its exponential, and the tokens scored.

    Texts longer than `max_tokens` are cut; the first token of a text has no prediction.
    """
    rows = round_up(rows, row_shards(mesh))
    encoded = sorted((tokenizer.encode(text)[:max_tokens] for text in texts), key=len)
    total, count = 0.0, 0
    for batch in chunks(encoded, rows):
        tokens = np.zeros((rows, round_up(max(map(len, batch)), 128)), np.int32)
        weight = np.zeros(tokens.shape, np.float32)
        for r, ids in enumerate(batch):
            tokens[r, : len(ids)], weight[r, : len(ids)] = ids, 1
        total += float(fetch(_nll(params, cfg, *put_rows((tokens, weight), mesh))))
        count += sum(max(len(ids) - 1, 0) for ids in batch)
    return {"nll": total / count, "perplexity": math.exp(total / count), "tokens": count}
