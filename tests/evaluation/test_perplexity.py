"""Retention against log-softmax of the whole logits."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation import perplexity, read_texts
from pivotrl_jax.models import init, logits
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.text import BpeTokenizer

GOLDEN = Path(__file__).parent.parent / "text" / "golden" / "smollm2.json"


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return BpeTokenizer.from_gguf(
        golden["tokens"], golden["merges"], golden["token_types"], "smollm", 0, None
    )


@pytest.fixture(scope="module")
def model(tiny_cfg, tokenizer):
    cfg = dataclasses.replace(tiny_cfg, vocab=tokenizer.vocab_size)
    return init(jax.random.key(0), cfg), cfg


def mean_nll(params, cfg, encoded: list[list[int]]) -> tuple[float, int]:
    scores = []
    for ids in encoded:
        row = np.pad(ids, (0, 128 - len(ids)))[None]
        z = jax.jit(logits, static_argnums=1)(params, cfg, row)
        logp = np.asarray(jax.nn.log_softmax(z))[0]
        scores += [-float(logp[t - 1, ids[t]]) for t in range(1, len(ids))]
    return float(np.mean(scores)), len(scores)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_perplexity_is_that_of_the_logits(model, tokenizer, sizes):
    texts = ["look at the file", "a", "the test is in the file of the test", "the", "a file of"]
    encoded = [tokenizer.encode(text)[:9] for text in texts]
    # A short text, a text of one token and one that is cut; the last batch is not full.
    assert min(map(len, encoded)) == 1
    assert max(len(tokenizer.encode(text)) for text in texts) > 9
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        scores = perplexity(*model, texts, tokenizer, mesh, max_tokens=9, rows=4)
    nll, count = mean_nll(*model, encoded)
    assert scores["nll"] == pytest.approx(nll, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(nll), rel=1e-4)
    assert scores["tokens"] == count


def test_texts_by_the_name_of_their_file(tmp_path):
    for name, texts in {"wiki": ["one", "two", "thrée"], "code": ["x = 1"]}.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    assert read_texts(tmp_path, None) == {"code": ["x = 1"], "wiki": ["one", "two", "thrée"]}
    assert read_texts(tmp_path, 2)["wiki"] == ["one", "two"]


def test_an_empty_folder_names_the_setting(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.jsonl\.gz; point evaluation\.ood_path"):
        read_texts(tmp_path, None)
