"""Text: tokenizers, chat templates, action formats, and trajectories as token trunks."""

from pivotrl_jax.text.actions import FencedBash, FencedSql, HermesTags, PlainJson
from pivotrl_jax.text.formats import action_format
from pivotrl_jax.text.learned import learn_tokenizer
from pivotrl_jax.text.parsing import ActionFormat, ParsedAction
from pivotrl_jax.text.render import Clip, Rendering, RenderSettings, Span, Trunk, render
from pivotrl_jax.text.templates import ChatTemplate
from pivotrl_jax.text.tokenizer import (
    BpeTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)

__all__ = [
    "ActionFormat",
    "BpeTokenizer",
    "ChatTemplate",
    "Clip",
    "FencedBash",
    "FencedSql",
    "HermesTags",
    "ParsedAction",
    "PlainJson",
    "RenderSettings",
    "Rendering",
    "SentencePieceTokenizer",
    "Span",
    "Tokenizer",
    "Trunk",
    "action_format",
    "learn_tokenizer",
    "load_tokenizer",
    "render",
]
