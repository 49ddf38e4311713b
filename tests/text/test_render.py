import dataclasses

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import (
    ActionFormat,
    ChatTemplate,
    Clip,
    FencedBash,
    HermesTags,
    Rendering,
    RenderSettings,
    Tokenizer,
    render,
)
from pivotrl_jax.text.render import clip_text, to_chat
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory

END = "<|im_end|>"
ALL = 10**9
# Qwen3 in small: reasoning of turns before the last user message disappears.
FORGETFUL = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- set content = m.content if loop.index0 > ns.last else m.content.split('</think>\n\n')[-1] %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""


def with_messages(trajectory: Trajectory, *messages: Message) -> Trajectory:
    return dataclasses.replace(trajectory, messages=messages)


def turns(trajectory: Trajectory) -> list[int]:
    return [i for i, m in enumerate(trajectory.messages) if m.role == "assistant"]


def n_spans(rendering: Rendering) -> int:
    return sum(len(trunk.spans) for trunk in rendering.trunks)


@pytest.mark.parametrize("fmt", [FencedBash(), HermesTags()], ids=lambda fmt: fmt.name)
def test_spans_are_the_printed_actions(
    trajectory: Trajectory, tokenizer: Tokenizer, chatml: ChatTemplate, fmt: ActionFormat
) -> None:
    rendering = render(trajectory, tokenizer, chatml, fmt, Clip(), ALL)
    (trunk,) = rendering.trunks
    assert trunk.tokens.dtype == np.int32
    assert [span.message for span in trunk.spans] == turns(trajectory)
    for span in trunk.spans:
        action = trajectory.messages[span.message].action
        assert tokenizer.decode(trunk.tokens[span.start : span.end]) == fmt.print(action) + END
        assert trunk.tokens[span.end - 1] == tokenizer.eot
    assert trunk.spans[-1].end == len(trunk.tokens)
    assert (rendering.clipped_tokens, rendering.left_out) == (0, {})


def test_histories_are_the_prompts_encoded_piece_by_piece(
    trajectory: Trajectory, tokenizer: Tokenizer, chatml: ChatTemplate
) -> None:
    (trunk,) = render(trajectory, tokenizer, chatml, FencedBash(), Clip(), ALL).trunks
    chat = [to_chat(message, FencedBash()) for message in trajectory.messages]
    text, expected = "", []
    for span in trunk.spans:
        prompt = chatml.render(chat[: span.message], add_generation_prompt=True)
        expected += tokenizer.encode(prompt[len(text) :])
        assert trunk.tokens[: span.start].tolist() == expected
        action = chat[span.message]["content"] + END
        expected += tokenizer.encode(action)
        text = prompt + action


def test_every_prompt_is_the_sampler_view_of_its_trunk(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    (trunk,) = render(trajectory, bpe, chatml, FencedBash(), Clip(), ALL).trunks
    for span in trunk.spans:
        shorter = with_messages(trajectory, *trajectory.messages[: span.message + 1])
        (alone,) = render(shorter, bpe, chatml, FencedBash(), Clip(), ALL).trunks
        np.testing.assert_array_equal(alone.tokens, trunk.tokens[: span.end])


def test_a_full_trunk_drops_later_turns_and_counts_them(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    (whole,) = render(trajectory, bpe, chatml, FencedBash(), Clip(), ALL).trunks
    third = whole.spans[2]
    for max_tokens, kept in ((third.end, 3), (third.end - 1, 2), (whole.spans[0].end - 1, 0)):
        rendering = render(trajectory, bpe, chatml, FencedBash(), Clip(), max_tokens)
        assert n_spans(rendering) == kept
        assert rendering.left_out == {"too_long": len(whole.spans) - kept}
        for trunk in rendering.trunks:
            np.testing.assert_array_equal(trunk.tokens, whole.tokens[: trunk.spans[-1].end])


def test_a_full_trunk_ends_the_rendering(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    dialogue = trajectory.messages[:4] + trajectory.messages[2:4] * 500
    (first, *_) = render(trajectory, bpe, chatml, FencedBash(), Clip(), ALL).trunks[0].spans
    calls = []

    class Counting(ChatTemplate):
        def render(self, *args: object, **options: object) -> str:  # type: ignore[override]
            calls.append(args)
            return super().render(*args, **options)  # type: ignore[arg-type]

    template = Counting(chatml.source)
    rendering = render(
        with_messages(trajectory, *dialogue), bpe, template, FencedBash(), Clip(), first.end
    )
    assert rendering.left_out == {"too_long": 500}
    assert len(calls) == 4


def test_a_template_that_rewrites_history_opens_further_trunks(
    trajectory: Trajectory, bpe: Tokenizer
) -> None:
    think = [
        dataclasses.replace(m, reasoning=f"thought {i}") if m.role == "assistant" else m
        for i, m in enumerate(trajectory.messages[:8])
    ]
    think[5] = Message("user", "Now look elsewhere.")
    rendering = render(
        with_messages(trajectory, *think), bpe, ChatTemplate(FORGETFUL), FencedBash(), Clip(), ALL,
        RenderSettings(reasoning="keep"),
    )  # fmt: skip
    assert [[span.message for span in trunk.spans] for trunk in rendering.trunks] == [[2, 4], [6]]
    first, second = (bpe.decode(trunk.tokens) for trunk in rendering.trunks)
    assert first.count("thought") == 2
    assert "thought 6" in second
    assert second.count("</think>") == 1
    (span,) = rendering.trunks[1].spans
    action = bpe.decode(rendering.trunks[1].tokens[span.start : span.end])
    assert FencedBash().parse(action.removesuffix(END)).action == think[6].action


def test_reasoning_is_dropped_unless_asked_for(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    message = dataclasses.replace(trajectory.messages[2], reasoning="secret")
    assert "secret" not in to_chat(message, FencedBash())["content"]
    kept = to_chat(message, FencedBash(), RenderSettings(reasoning="keep"))["content"]
    assert kept.startswith("<think>\nsecret\n</think>\n\nI'll start")


def test_tool_results_take_the_role_of_the_settings(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    for role in ("tool", "user"):
        settings = RenderSettings(tool_role=role)
        (trunk,) = render(trajectory, bpe, chatml, FencedBash(), Clip(), ALL, settings).trunks
        text = bpe.decode(trunk.tokens)
        assert text.count("<|im_start|>tool\n") == (5 if role == "tool" else 0)
        assert text.count("<|im_start|>user\n") == (1 if role == "tool" else 6)


def test_clipping_is_counted_and_keeps_histories_nested(
    trajectory: Trajectory, tokenizer: Tokenizer, chatml: ChatTemplate
) -> None:
    clip = Clip(observation=64, task=300)
    rendering = render(trajectory, tokenizer, chatml, FencedBash(), clip, ALL)
    (trunk,) = rendering.trunks
    last = trunk.spans[-1].message
    expected = 0
    for index, message in enumerate(trajectory.messages[:last]):
        limit = 300 if index <= 1 else 64
        if message.role != "assistant":
            expected += max(0, len(tokenizer.encode(message.content)) - limit)
    assert rendering.clipped_tokens == expected > 0
    shorter = with_messages(trajectory, *trajectory.messages[:7])
    (alone,) = render(shorter, tokenizer, chatml, FencedBash(), clip, ALL).trunks
    np.testing.assert_array_equal(alone.tokens, trunk.tokens[: len(alone.tokens)])


def test_tokens_clipped_after_the_last_span_are_not_counted(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    clip = Clip(observation=8)
    (whole,) = render(trajectory, bpe, chatml, FencedBash(), clip, ALL).trunks
    rendering = render(trajectory, bpe, chatml, FencedBash(), clip, whole.spans[1].end)
    assert rendering.clipped_tokens == len(bpe.encode(trajectory.messages[3].content)) - 8


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 50])
def test_clipped_text_keeps_head_and_tail(tokenizer: Tokenizer, limit: int) -> None:
    text = "naïve 日本語 🏳️‍🌈 " * 40
    clipped, dropped = clip_text(text, limit, tokenizer)
    ids = tokenizer.encode(text)
    assert dropped == len(ids) - limit
    head, tail = clipped.split(f"\n[... {dropped} tokens left out ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "\ufffd" not in clipped
    assert len(tokenizer.encode(head)) <= limit - limit // 2
    assert len(tokenizer.encode(tail)) <= limit // 2 + 1


def test_short_text_is_not_clipped(tokenizer: Tokenizer) -> None:
    text = "exactly this long"
    limit = len(tokenizer.encode(text))
    assert clip_text(text, limit, tokenizer) == (text, 0)
    assert clip_text(text, None, tokenizer) == (text, 0)


def bash(text: str, command: str) -> Message:
    return Message("assistant", text, (ToolCall("bash", {"command": command}),))


def test_turns_that_cannot_be_rendered_are_counted_by_reason(
    trajectory: Trajectory, bpe: Tokenizer, chatml: ChatTemplate
) -> None:
    task = Message("user", "Fix it.")
    dialogue = with_messages(
        trajectory,
        bash("before any task", "ls"),
        task,
        bash("holds the marker", f"echo '{END}'"),
        Message("tool", "ok"),
        bash("fine", "ls"),
        bash("```bash\nis a fence\n```", "ls"),
        bash("never reached", "ls"),
    )
    rendering = render(dialogue, bpe, chatml, FencedBash(), Clip(), ALL)
    assert rendering.left_out == {
        "no_history": 1,
        "end_of_turn_inside": 1,
        "unprintable_action": 2,
    }
    (trunk,) = rendering.trunks
    assert [span.message for span in trunk.spans] == [4]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages | length }}", "template_not_appending"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "no_end_of_turn"),
    ],
)
def test_templates_without_spans_leave_every_turn_out(
    trajectory: Trajectory, bpe: Tokenizer, source: str, reason: str
) -> None:
    rendering = render(trajectory, bpe, ChatTemplate(source), FencedBash(), Clip(), ALL)
    assert rendering == Rendering((), 0, {reason: 6})


def test_a_failing_template_stops_the_rendering(trajectory: Trajectory, bpe: Tokenizer) -> None:
    template = ChatTemplate("{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="no system role"):
        render(trajectory, bpe, template, FencedBash(), Clip(), ALL)
