"""Chat templates: dialogue to text, in a sandbox because templates come with downloaded models."""

import dataclasses
import datetime
import functools
import hashlib
import json
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.fallbacks import FALLBACKS
from pivotrl_jax.text.tokenizer import Tokenizer

# A run that goes on tomorrow must have today's prompts. Llama 3's templates name this day, too.
_TODAY = datetime.date(2024, 7, 26)


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template; `special_tokens` holds the variables bos_token and eos_token.

    `variables` are further ones that the template reads: Qwen3's `enable_thinking`, gpt-oss's
    `reasoning_effort`, Llama 3's `date_string`.
    """

    source: str
    special_tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, variables: Mapping[str, Any] = MappingProxyType({})
    ) -> "ChatTemplate":
        """The template that came with the tokenizer, or the built-in one for its end of turn.

        UserError if there is neither.
        """
        source = tokenizer.chat_template
        if source is None:
            source = FALLBACKS.get(tokenizer.decode([tokenizer.eot]))
        if source is None:
            raise UserError(
                "the tokenizer has no chat template: put a chat_template.jinja beside it"
            )
        return cls(source, tokenizer.special_tokens, variables)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the source and all variables."""
        parts = json.dumps(
            [self.source, dict(self.special_tokens), dict(self.variables)], sort_keys=True
        )
        return hashlib.sha256(parts.encode()).hexdigest()

    @functools.cached_property
    def takes_tools(self) -> bool:
        """Whether the template itself tells the model of its tools."""
        _ = self._compiled  # a template that cannot be read fails with its line
        return "tools" in jinja2.meta.find_undeclared_variables(_environment().parse(self.source))

    @functools.cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise _failure(error, error.lineno) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> str:
        """Text of the dialogue; UserError naming the template's line if the template fails."""
        template = self._compiled
        try:
            return template.render(
                messages=messages,
                # Templates test `if tools`, some of them `tools is not none`.
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
                **self.variables,
            )
        # A template is a program of somebody else's: it can fail in any way.
        except Exception as error:
            raise _failure(error, _template_line(error)) from error


class _Generation(jinja2.ext.Extension):
    """{% generation %} blocks, by which some templates mark assistants' text for trainers."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _template_line(error: Exception) -> int | None:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines else None


def _failure(error: Exception, line: int | None) -> UserError:
    place = f"line {line} of the chat template" if line else "the chat template"
    return UserError(
        f"{place} fails with {type(error).__name__}: {error}; "
        "correct the template or choose another one"
    )
