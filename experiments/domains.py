"""What the settings of one domain name: text format, template, verifier, judge."""

import dataclasses
from functools import cached_property
from pathlib import Path

from experiments.settings import DomainSettings
from pivotrl_jax.pivots import Grading, Truncated
from pivotrl_jax.text import ActionFormat, ChatTemplate, Tokenizer, action_format
from pivotrl_jax.verifiers import Verifier, verifier
from pivotrl_jax.verifiers.judge import Judge, JudgeClient
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.tiered import Tiered


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain of a run; what it needs is made on first use.

    `judge_cache` is where its judge's answers are kept unless the settings say where.
    """

    settings: DomainSettings
    tokenizer: Tokenizer
    judge_cache: Path

    @cached_property
    def fmt(self) -> ActionFormat:
        return action_format(self.settings.text.action_format)

    @cached_property
    def template(self) -> ChatTemplate:
        thinking = self.settings.text.thinking
        variables = {} if thinking is None else {"enable_thinking": thinking}
        return ChatTemplate.from_tokenizer(self.tokenizer, variables)

    @cached_property
    def verifier(self) -> Verifier:
        settings = self.settings.reward
        rules = verifier(settings.verifier, settings.databases)
        if self.judge is None:
            return rules
        return Tiered(rules, self.judge, settings.judge.accept, settings.judge.reject)

    @cached_property
    def judge(self) -> Judge | None:
        settings = self.settings.reward.judge
        endpoint = settings.endpoint
        if not endpoint.url:
            return None
        cache = endpoint.cache or str(self.judge_cache)
        client = JudgeClient(dataclasses.replace(endpoint, cache=cache))
        return Judge(client, settings.disagreement)

    def grading(self, truncated: Truncated | None = None) -> Grading:
        """`truncated` overrides what the settings say of samples that reached the token cap."""
        reward = self.settings.reward
        return Grading(self.fmt, self.verifier, reward.recipe, truncated or reward.truncated)

    def update_grading(self) -> Grading:
        """That of training updates."""
        grading, conditions = self.grading(), self.settings.reward.updates
        if not conditions:
            return grading
        return dataclasses.replace(grading, recipe=Recipe("updates", accept=conditions))
