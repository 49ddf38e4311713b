"""WebDancer turns: thought, then a tagged call or the tagged answer."""

import dataclasses

from pivotrl_jax.text.actions import HermesTags
from pivotrl_jax.text.parsing import ParsedAction, verified
from pivotrl_jax.trajectories.schema import Action


@dataclasses.dataclass(frozen=True)
class WebDancer:
    """<tool_call> tags as in Hermes, or else a message in <answer> tags (arXiv 2505.22648).

    The answer's tags are part of the action's text. The <think> text before it is reasoning.
    """

    name: str = dataclasses.field(default="webdancer", init=False)

    def print(self, action: Action) -> str:
        """Print as Hermes does."""
        return verified(self, action, HermesTags().print(action))

    def parse(self, text: str) -> ParsedAction:
        """Read as Hermes does; a turn has to be calls and no text, or exactly one answer."""
        read = HermesTags().parse(text)
        said, called = read.action.text, bool(read.action.calls)
        if called and said.strip():
            return dataclasses.replace(read, problems=(*read.problems, "text_beside_call"))
        if not called and not _is_answer(said.strip()):
            return dataclasses.replace(read, problems=(*read.problems, "no_answer"))
        return read


def _is_answer(text: str) -> bool:
    enclosed = text.startswith("<answer>") and text.endswith("</answer>")
    return enclosed and text.count("<answer>") == text.count("</answer>") == 1
