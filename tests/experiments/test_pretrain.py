"""A base of a few thousand parameters from real sessions, from tokenizer to directory."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import pretrain as pretraining
from experiments.pretrain import PretrainSettings, architecture, examples_of, pack, pretrain
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import logits
from pivotrl_jax.models.pretrained import Pretrained, resolve
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.text import Clip, action_format, render
from pivotrl_jax.text.templates import ChatTemplate
from pivotrl_jax.training import (
    Checkpointer,
    OptimizerSettings,
    make_optimizer,
    new_state,
    packed_batch,
    state_shardings,
    token_logprobs,
)
from pivotrl_jax.trajectories import Message, ToolCall, Trajectory, read

DATA = Path("experiments/data/sql/intercode_sql_gpt4_success.jsonl.gz")
SETTINGS = PretrainSettings(
    vocab=512,
    width=32,
    layers=2,
    kv_heads=1,
    head_dim=16,
    ffn=64,
    action_format="fenced_sql",
    loss="all",
    rows=(256, 512),
    batch_tokens=1024,
    steps=4,
    save_every=2,
    optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=1, schedule="cosine"),
)
replace = dataclasses.replace


@pytest.fixture(scope="module")
def documents() -> list[Trajectory]:
    """Real sessions, and one with a call that the format has no words for."""
    found, _ = read(DATA, limit=40)
    call = Message("assistant", "", (ToolCall("search", {"text": "x"}),))
    return [*found, replace(found[0], messages=(found[0].messages[0], call))]


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshSettings(), jax.devices()[:1])


@pytest.fixture(scope="module")
def workdir(documents, mesh, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("base")
    assert pretrain(documents, SETTINGS, workdir, mesh) == workdir / "model"
    return workdir


@pytest.fixture(scope="module")
def base(workdir) -> Pretrained:
    return resolve(str(workdir / "model"))


@pytest.fixture(scope="module")
def trunks(documents, base) -> list:
    fmt, template = action_format("fenced_sql"), ChatTemplate.from_tokenizer(base.tokenizer)
    rendered = [render(each, base.tokenizer, template, fmt, Clip(), 512) for each in documents]
    return [trunk for each in rendered for trunk in each.trunks]


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir: Path) -> bytes:
    return (workdir / "model/model.safetensors").read_bytes()


def test_the_directory_holds_the_trained_model(workdir, base, mesh):
    cfg = architecture(SETTINGS, base.tokenizer.vocab_size)
    assert replace(base.cfg, name=cfg.name) == cfg
    config = json.loads((workdir / "model/config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["tie_word_embeddings"]
    assert config["eos_token_id"] == base.tokenizer.eot
    params = base.load(None)
    optimizer = make_optimizer(SETTINGS.optimizer, SETTINGS.steps)
    like = new_state(params, optimizer, state_shardings(optimizer, cfg, mesh))
    trained, _ = Checkpointer(workdir / "checkpoints").restore(like)
    tokens = np.asarray([base.tokenizer.encode("<|im_start|>user\nHow many?<|im_end|>\n")])
    of = jax.jit(logits, static_argnums=1)
    np.testing.assert_array_equal(
        of(base.load(None), base.cfg, tokens), of(trained.params, cfg, tokens)
    )


def test_a_few_steps_lower_the_loss(workdir):
    losses = [row["loss"] for row in metrics(workdir)]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(np.log(512), rel=0.1)
    assert losses[-1] < 0.9 * losses[0]


def test_what_was_read_is_told(workdir, documents, trunks):
    audit = json.loads((workdir / "audit.json").read_text())
    assert audit["documents"] == len(documents) == 41
    assert audit["turns_left_out"]["unprintable_action"] == 1
    assert audit["trunks"] == len(trunks)
    assert audit["tokens"] == sum(len(trunk.tokens) for trunk in trunks)
    assert audit["vocab"] == 512


@pytest.mark.parametrize("loss", ["all", "assistant"])
def test_the_tokens_that_are_learned(loss, documents, trunks, base):
    examples, audit = examples_of(documents, base.tokenizer, replace(SETTINGS, loss=loss))
    assert audit["learned_tokens"] < audit["tokens"]
    for (tokens, spans), trunk in zip(examples, trunks, strict=True):
        np.testing.assert_array_equal(tokens, trunk.tokens)
        texts = [base.tokenizer.decode(tokens[a:b]) for a, b in spans]
        if loss == "assistant":
            assert all(text.endswith("<|im_end|>") for text in texts)
            assert sum(map(len, spans)) == 2 * len(trunk.spans)
            assert not any("<|im_start|>" in text for text in texts)
        else:
            assert "<|im_start|>" + texts[0] == base.tokenizer.decode(tokens)
            assert len(texts) == 1


def test_documents_of_a_row_do_not_see_each_other(base, trunks):
    """Log-probs of packed rows are those of a row for each document."""
    examples = [(trunk.tokens, [(1, len(trunk.tokens))]) for trunk in trunks[:6]]
    rows = [row for _, row in pack([len(tokens) for tokens, _ in examples], [512])]
    assert len(rows) < len(examples)
    assert max(map(len, rows)) > 1
    params = base.load(None)
    score = jax.jit(lambda batch: token_logprobs(params, base.cfg, batch.tree, batch.index).logp_T)

    def scores(rows: list[list[int]]) -> dict[int, np.ndarray]:
        batch = packed_batch([[examples[i] for i in row] for row in rows], 512, 512)
        found: dict[int, np.ndarray] = {}
        for row, logp, weight in zip(rows, np.asarray(score(batch)), batch.weight, strict=True):
            ends = np.cumsum([len(examples[i][0]) - 1 for i in row])
            assert weight.sum() == ends[-1]
            found |= dict(zip(row, np.split(logp, ends)[:-1], strict=True))
        return found

    together, alone = scores(rows), scores([[i] for i in range(len(examples))])
    for i, wanted in alone.items():
        np.testing.assert_allclose(together[i], wanted, atol=2e-5)


def test_documents_go_to_the_shortest_rows_that_hold_them():
    rows = pack([100, 300, 256, 150, 90, 512], (512, 256))
    assert sorted(rows) == [(256, [0, 3]), (256, [2]), (256, [4]), (512, [1]), (512, [5])]


def test_a_killed_run_ends_with_the_bits_of_a_whole_one(
    workdir, documents, mesh, tmp_path, monkeypatch
):
    run_steps = pretraining.run_steps

    def killed(*arguments, steps, **rest):
        run_steps(*arguments, steps=3, **rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "run_steps", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(documents, SETTINGS, tmp_path, mesh)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    pretrain(documents, SETTINGS, tmp_path, mesh)
    assert weights(tmp_path) == weights(workdir)
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in metrics(tmp_path)]
    assert [row["step"] for row in without] == [1, 2, 3, 4]


def test_another_seed_makes_another_model(workdir, documents, mesh, tmp_path):
    pretrain(documents, replace(SETTINGS, seed=1), tmp_path, mesh)
    assert weights(tmp_path) != weights(workdir)
    for name in ("tokenizer.model", "config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (workdir / "model" / name).read_bytes()


def test_documents_that_do_not_fit_are_told(documents, mesh, tmp_path):
    with pytest.raises(UserError, match=r"no turn of 41 documents .*too_long.*raise pretrain.rows"):
        pretrain(documents, replace(SETTINGS, rows=(16,)), tmp_path, mesh)


def test_a_misspelt_loss_is_told():
    with pytest.raises(UserError, match=r"pretrain\.loss"):
        replace(SETTINGS, loss="answers")
