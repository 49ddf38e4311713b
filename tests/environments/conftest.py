"""InterCode-SQL, and SmolLM2's own tokens and template to play it with."""

import json
from pathlib import Path

import pytest

from pivotrl_jax.environments import ChatFormat, InterCodeSql
from pivotrl_jax.text import BpeTokenizer, ChatTemplate, Clip, FencedSql, RenderSettings

ROOT = Path(__file__).parents[2]
DATA = ROOT / "experiments/data/sql"
GOLDEN = ROOT / "tests/text/golden/smollm2.json"


@pytest.fixture(scope="session")
def environment() -> InterCodeSql:
    return InterCodeSql.load(
        str(DATA / "intercode_spider_dev_tasks.json.gz"),
        str(DATA / "intercode_spider_sqlite.tar.gz"),
    )


@pytest.fixture(scope="session")
def tokenizer() -> BpeTokenizer:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return BpeTokenizer.from_gguf(
        golden["tokens"],
        golden["merges"],
        golden["token_types"],
        "smollm",
        golden["tokens"].index("<|im_end|>"),
        golden["chat_template"],
    )


@pytest.fixture(scope="session")
def chat(tokenizer: BpeTokenizer) -> ChatFormat:
    template = ChatTemplate.from_tokenizer(tokenizer)
    return ChatFormat(
        tokenizer, template, FencedSql(), Clip(24, 60), RenderSettings(tool_role="user")
    )
