"""A small base from scratch: tokenizer, Qwen3 of a few million parameters, pre-training.

`pretrain(documents, settings, workdir, mesh)` leaves a directory that `models.pretrained.resolve`
loads like any published model.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.artifacts import write_json
from experiments.progress import Progress
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params, Remat, huggingface, init
from pivotrl_jax.objectives.names import require
from pivotrl_jax.text import (
    ChatTemplate,
    Clip,
    Tokenizer,
    action_format,
    learn_tokenizer,
    load_tokenizer,
    render,
)
from pivotrl_jax.text.fallbacks import FALLBACKS
from pivotrl_jax.text.learned import END
from pivotrl_jax.text.render import to_chat
from pivotrl_jax.text.tools import told, with_tools
from pivotrl_jax.training import (
    Checkpointer,
    Example,
    MetricWriter,
    OptimizerSettings,
    TrainState,
    in_micro_batches,
    learning_rates,
    length_batches,
    make_optimizer,
    new_state,
    packed_batch,
    run_steps,
    state_shardings,
    supervised_update,
)
from pivotrl_jax.trajectories import Trajectory
from pivotrl_jax.trees import filled

Loss = Literal["all", "assistant"]


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """A model of `width` x `layers` and how it is trained.

    `vocab` is the most pieces of the tokenizer. A document, a dialogue whose turns are written in
    `action_format`, goes to rows of the shortest of `rows` tokens that holds it, since attention
    costs what the row is long; turns that the longest row does not hold are left out. A step takes
    `batch_tokens` tokens in rows of one length, and the `loss` is that of all tokens or of the
    assistant's.
    """

    seed: int = 0
    vocab: int = 1024
    width: int = 128
    layers: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 384
    action_format: str = "hermes"
    loss: Loss = "assistant"
    rows: tuple[int, ...] = (256, 1024)
    batch_tokens: int = 4_096
    steps: int = 3_000
    save_every: int = 100
    remat: Remat = "dots"
    optimizer: OptimizerSettings = dataclasses.field(
        default_factory=lambda: OptimizerSettings(
            learning_rate=3e-3, warmup_steps=50, schedule="cosine", b2=0.95, weight_decay=0.1
        )
    )

    def __post_init__(self) -> None:
        require("pretrain.loss", self.loss, get_args(Loss))


def pretrain(
    documents: Sequence[Trajectory], settings: PretrainSettings, workdir: Path, mesh: Mesh
) -> Path:
    """Trains tokenizer and model on `documents` and returns the directory that holds both.

    `workdir` gets what was read (audit.json), metrics and checkpoints, too; a killed run resumes
    there, with the same documents and settings, to the same bits. Raises UserError when no turn of
    any document fits.
    """
    files = learn_tokenizer(map(_text(settings), documents), settings.vocab)
    _write(workdir / "tokenizer", files)
    tokenizer = load_tokenizer(workdir / "tokenizer")
    examples, audit = examples_of(documents, tokenizer, settings)
    write_json(workdir / "audit.json", audit)
    cfg = architecture(settings, tokenizer.vocab_size)
    params = _trained(examples, cfg, settings, workdir, mesh)
    huggingface.save(workdir / "model", params, cfg, files, tokenizer.eot)
    return workdir / "model"


def architecture(settings: PretrainSettings, vocab: int) -> ModelConfig:
    """Qwen3: norms of queries and keys, one head for two query heads, tied embeddings."""
    return ModelConfig(
        name="pretrained",
        vocab=vocab,
        width=settings.width,
        layers=settings.layers,
        heads=2 * settings.kv_heads,
        kv_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        ffn=settings.ffn,
        rope_theta=10_000.0,
        norm_eps=1e-6,
        max_positions=max(settings.rows),
        qk_norm=True,
    )


def _text(settings: PretrainSettings) -> Callable[[Trajectory], str]:
    """What the tokenizer learns a document from: all of it, as the chat template writes it."""
    fmt = action_format(settings.action_format)
    template = ChatTemplate(FALLBACKS[END])

    def text(document: Trajectory) -> str:
        try:
            chat = [to_chat(message, fmt) for message in document.messages]
        except ValueError:  # an action that `fmt` cannot print: `render` says how many
            return ""
        return template.render(with_tools(chat, told(fmt, document.tools), fmt))

    return text


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def examples_of(
    documents: Sequence[Trajectory], tokenizer: Tokenizer, settings: PretrainSettings
) -> tuple[list[Example], dict[str, Any]]:
    """Trunks with the spans that are learned, and counts of what was read.

    Raises UserError when nothing can be learned.
    """
    fmt, template = action_format(settings.action_format), ChatTemplate.from_tokenizer(tokenizer)
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    for document in documents:
        found = render(document, tokenizer, template, fmt, Clip(), max(settings.rows))
        left_out.update(found.left_out)
        for trunk in found.trunks:
            own = [(span.start, span.end) for span in trunk.spans]
            # Nothing comes before the first token that could predict it.
            every = [(1, len(trunk.tokens))]
            examples.append((trunk.tokens, every if settings.loss == "all" else own))
    if not examples:
        raise UserError(
            f"no turn of {len(documents)} documents can be learned from ({dict(left_out)}); raise "
            "pretrain.rows or name another pretrain.action_format"
        )
    return examples, {
        "documents": len(documents),
        "trunks": len(examples),
        "tokens": sum(len(tokens) for tokens, _ in examples),
        "learned_tokens": sum(b - a for _, spans in examples for a, b in spans),
        "turns_left_out": left_out,
        "vocab": tokenizer.vocab_size,
    }


def pack(sizes: Sequence[int], rows: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Rows as (length, numbers of the documents in it): each document in a row of the shortest of
    the lengths `rows` that holds it, together with others of its kind."""
    lengths = sorted(rows)
    shortest = np.searchsorted(lengths, sizes)
    packed = []
    for kind, length in enumerate(lengths):
        own = np.flatnonzero(shortest == kind).tolist()
        for row in filled([sizes[i] for i in own], length):
            packed.append((length, [own[i] for i in row]))
    return packed


def _trained(
    examples: Sequence[Example],
    cfg: ModelConfig,
    settings: PretrainSettings,
    workdir: Path,
    mesh: Mesh,
) -> Params:
    rows = pack([len(tokens) for tokens, _ in examples], settings.rows)
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    layout = state_shardings(optimizer, cfg, mesh)
    update = in_micro_batches(supervised_update(cfg, optimizer, layout, settings.remat), mesh)
    rates = learning_rates(settings.optimizer, settings.steps)

    def step(state: TrainState, indices: np.ndarray, number: int) -> tuple[TrainState, Mapping]:
        length = rows[indices[0]][0]
        batch = packed_batch(
            [[examples[i] for i in rows[row][1]] for row in indices], length, multiple=length
        )
        state, metrics = update(state, batch)
        scalars = {name: float(x) for name, x in jax.device_get(metrics).items()}
        return state, scalars | {"lr": rates[number], "row_tokens": length}

    born = jax.jit(init, static_argnums=1, out_shardings=layout.params)
    state = new_state(born(jax.random.key(settings.seed), cfg), optimizer, layout)
    data = length_batches([length for length, _ in rows], settings.batch_tokens, settings.seed)
    checkpointer = Checkpointer(workdir / "checkpoints")
    restored = checkpointer.latest()
    if restored is not None:
        state, position = checkpointer.restore(state)
        data.set_state(position)
    with (
        MetricWriter(workdir, restored) as writer,
        Progress("pretrain", settings.steps, "steps", initial=restored or 0) as bar,
    ):
        state = run_steps(
            step,
            state,
            steps=settings.steps,
            data=data,
            checkpointer=checkpointer,
            save_every=settings.save_every,
            writer=writer,
            bar=bar,
            note=lambda metrics: f"loss {metrics['loss']:.3f}",
        )
    checkpointer.close()
    return state.params
