"""The chat formats of model families, against what their published templates write."""

import dataclasses
import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from pivotrl_jax.text import (
    ActionFormat,
    BpeTokenizer,
    ChatTemplate,
    Clip,
    Rendering,
    RenderSettings,
    action_format,
    render,
)
from pivotrl_jax.text.fallbacks import FALLBACKS
from pivotrl_jax.text.render import to_chat
from pivotrl_jax.text.tools import with_tools
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "chats.json").read_text(encoding="utf-8"))
RECORD = json.loads((HERE / "data" / "tau2_retail.json").read_text(encoding="utf-8"))
TEMPLATES: dict[str, str] = GOLDEN["templates"]
QWEN3, GPT_OSS = TEMPLATES["qwen3"], TEMPLATES["gptoss"]
CHATML, LLAMA3, GEMMA3 = FALLBACKS.values()
THOUGHTS = {int(index): thought for index, thought in GOLDEN["thoughts"].items()}
KEEP = RenderSettings(reasoning="keep")
DROP = RenderSettings()
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = {
    "<|im_end|>": ["<|im_start|>"],
    "<|return|>": ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
    "<|eot_id|>": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
    "<end_of_turn>": ["<bos>", "<start_of_turn>"],
}


def dialogue(thoughts: bool = True) -> Trajectory:
    messages = tuple(
        Message(
            entry["role"],
            entry["content"],
            tuple(ToolCall(**call) for call in entry.get("calls", ())),
            THOUGHTS.get(index) if thoughts else None,
        )
        for index, entry in enumerate(RECORD["messages"])
    )
    return Trajectory("retail", messages, "retail", "tool_use", "x:1", tuple(RECORD["tools"]))


def tokenizer(end: str, template: str | None = None) -> BpeTokenizer:
    """One token a byte, and the special tokens of a family."""
    tokens = [*BYTES, *SPECIAL.get(end, []), end]
    types = [1] * len(BYTES) + [3] * (len(tokens) - len(BYTES))
    return BpeTokenizer.from_gguf(tokens, [], types, "qwen2", len(tokens) - 1, template)


def end_of(source: str) -> str:
    return next(end for end in SPECIAL if end in source)


def fmt_of(source: str) -> ActionFormat:
    names = {"<|return|>": "harmony", "<|eot_id|>": "llama3", "<end_of_turn>": "llama3"}
    return action_format(names.get(end_of(source), "hermes"))


def rendered(
    source: str, trajectory: Trajectory, settings: RenderSettings, **variables: Any
) -> tuple[Rendering, BpeTokenizer]:
    tokens = tokenizer(end_of(source))
    template = ChatTemplate(source, {}, variables)
    rendering = render(trajectory, tokens, template, fmt_of(source), Clip(), 10**9, settings)
    return rendering, tokens


def spans(rendering: Rendering) -> list[list[int]]:
    return [[span.message for span in trunk.spans] for trunk in rendering.trunks]


@pytest.mark.parametrize(
    "case",
    [case for case in GOLDEN["cases"] if case["template"] in TEMPLATES],
    ids=lambda case: f"{case['template']}-{case['thoughts']}-{case['variables']}",
)
def test_published_templates_write_our_turns_as_they_write_tool_calls(case: dict) -> None:
    template = ChatTemplate(TEMPLATES[case["template"]], {}, case["variables"])
    fmt = fmt_of(template.source)
    chat = [to_chat(m, fmt, KEEP) for m in dialogue(case["thoughts"]).messages]
    assert template.takes_tools
    assert template.render(chat, RECORD["tools"]) == case["full"]
    prompt = template.render(chat[:-1], RECORD["tools"], add_generation_prompt=True)
    assert hashlib.sha256(prompt.encode()).hexdigest() == case["prompt_sha256"]


@pytest.mark.parametrize(("name", "role"), [("llama3_2", "tool"), ("gemma3", "user")])
def test_fallbacks_write_dialogues_as_the_published_templates_do(name: str, role: Any) -> None:
    case = next(case for case in GOLDEN["cases"] if case["template"] == name)
    source = {"llama3_2": LLAMA3, "gemma3": GEMMA3}[name]
    settings, fmt = RenderSettings(tool_role=role), fmt_of(source)
    messages = dialogue(thoughts=False).messages
    expected = case["full"]
    for message in messages:
        # Llama's template quotes results as JSON, which its documentation does not.
        if name == "llama3_2" and message.role == "tool":
            quoted = f"{json.dumps(message.content)}<|eot_id|>"
            expected = expected.replace(quoted, f"{message.content}<|eot_id|>")
    text = ChatTemplate(source).render([to_chat(m, fmt, settings) for m in messages])
    assert text.removeprefix("<|begin_of_text|>") == expected


FAMILIES = {
    "qwen3": QWEN3,
    "qwen3_instruct_2507": TEMPLATES["qwen3_instruct_2507"],
    "gptoss": GPT_OSS,
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma3": GEMMA3,
}


@pytest.mark.parametrize("settings", [KEEP, DROP], ids=lambda settings: settings.reasoning)
@pytest.mark.parametrize("source", FAMILIES.values(), ids=FAMILIES)
def test_every_span_is_the_action_and_no_prompt_holds_its_thought(
    source: str, settings: RenderSettings
) -> None:
    trajectory = dialogue()
    rendering, tokens = rendered(source, trajectory, settings)
    assert sorted(chain(*spans(rendering))) == [1, 3, 5, 7, 9]
    assert rendering.left_out == {}
    for trunk in rendering.trunks:
        for span in trunk.spans:
            message = trajectory.messages[span.message]
            ids = trunk.tokens[span.start : span.end].tolist()
            read = fmt_of(source).parse(tokens.decode(ids[:-1]))
            assert read.action == message.action
            assert ids[-1] in tokens.ends
            assert not set(ids[:-1]) & set(tokens.ends)
            kept = settings.reasoning == "keep" and message.reasoning
            assert read.reasoning == (message.reasoning if kept else "")
            prompt = tokens.decode(trunk.tokens[: span.start].tolist())
            assert THOUGHTS.get(span.message, "\0") not in prompt
            assert "get_order_details" in prompt


# Where a template takes back what it wrote (an empty thought, the token after a final message),
# the next turn opens a trunk. Turn 3 is a message; the user speaks at 0 and 4.
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("qwen3", DROP, [[1], [3], [5], [7], [9]]),
        ("qwen3", KEEP, [[1, 3], [5, 7], [9]]),
        ("qwen3_instruct_2507", DROP, [[1, 3, 5, 7, 9]]),
        ("gptoss", DROP, [[1, 3], [5, 7, 9]]),
        ("gptoss", KEEP, [[1, 3], [5, 7, 9]]),
        ("chatml", KEEP, [[1, 3, 5, 7, 9]]),
        ("llama3", DROP, [[1, 3, 5, 7, 9]]),
        ("gemma3", DROP, [[1, 3, 5, 7, 9]]),
    ],
)
def test_turns_share_trunks_as_far_as_the_template_appends(
    name: str, settings: RenderSettings, expected: list[list[int]]
) -> None:
    rendering, _ = rendered(FAMILIES[name], dialogue(), settings)
    assert spans(rendering) == expected


def test_qwen3_thinks_or_not_as_configured() -> None:
    off, tokens = rendered(QWEN3, dialogue(), DROP, enable_thinking=False)
    on, _ = rendered(QWEN3, dialogue(), DROP)
    for rendering, prompt_end, action_start in (
        (off, "assistant\n<think>\n\n</think>\n\n", "<tool_call>"),
        (on, "assistant\n", "<think>\n\n</think>\n\n<tool_call>"),
    ):
        trunk = rendering.trunks[0]
        (span,) = trunk.spans
        assert tokens.decode(trunk.tokens[: span.start].tolist()).endswith(prompt_end)
        assert tokens.decode(trunk.tokens[span.start :].tolist()).startswith(action_start)


def test_gpt_oss_ends_calls_and_messages_with_tokens_of_their_own() -> None:
    rendering, tokens = rendered(GPT_OSS, dialogue(), DROP)
    last = {
        span.message: tokens.decode([int(trunk.tokens[span.end - 1])])
        for trunk in rendering.trunks
        for span in trunk.spans
    }
    assert last == {1: "<|call|>", 3: "<|return|>", **dict.fromkeys((5, 7, 9), "<|call|>")}
    assert tokens.ends[0] == tokens.eot
    assert tokenizer("<|im_end|>").ends == (tokenizer("<|im_end|>").eot,)


def test_gpt_oss_writes_text_beside_a_call_as_a_thought() -> None:
    call = ToolCall("f", {"x": "<|call|>"})
    chat = to_chat(Message("assistant", "I look.", (call,), "Hm."), action_format("harmony"), KEEP)
    assert chat["content"] == "Hm.\nI look."
    said = dialogue()
    inside = dataclasses.replace(said, messages=(*said.messages[:9], Message(
        "assistant", "", (call,)
    )))  # fmt: skip
    rendering, _ = rendered(GPT_OSS, inside, DROP)
    assert rendering.left_out == {"end_of_turn_inside": 1}


ALTERNATING = """
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}
{{- '<start_of_turn>' + m.role + '\n' + m.content + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}
"""


def batch() -> Trajectory:
    start = dialogue(thoughts=False)
    call, found = start.messages[5].calls[0], start.messages[6]
    two = dataclasses.replace(start.messages[5], calls=(call, call))
    return dataclasses.replace(
        start, messages=(*start.messages[:5], two, found, found, *start.messages[7:]), tools=()
    )


def test_results_of_a_batch_are_one_message_of_the_user() -> None:
    rendering, tokens = rendered(ALTERNATING, batch(), RenderSettings(tool_role="user"))
    assert spans(rendering) == [[1, 3, 5, 8, 10]]
    trunk = rendering.trunks[0]
    found = batch().messages[6].content
    assert f"user\n{found}\n\n{found}<end" in tokens.decode(trunk.tokens.tolist())
    for span in trunk.spans:
        text = tokens.decode(trunk.tokens[span.start : span.end - 1].tolist())
        assert fmt_of(ALTERNATING).parse(text).action == batch().messages[span.message].action


def test_gemma_fallback_joins_what_one_side_says() -> None:
    chat = [{"role": role, "content": role[0]} for role in ("system", "user", "tool", "assistant")]
    assert ChatTemplate(GEMMA3).render(chat, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\ns\n\nu\n\nt<end_of_turn>\n"
        "<start_of_turn>model\na<end_of_turn>\n<start_of_turn>model\n"
    )
    assert ChatTemplate(GEMMA3).render(chat[3:]) == "<bos><start_of_turn>model\na<end_of_turn>\n"


def test_chatml_fallback_tags_results() -> None:
    chat = [{"role": role, "content": role[0]} for role in ("assistant", "tool", "tool", "user")]
    assert ChatTemplate(CHATML).render(chat) == (
        "<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\n<tool_response>\nt\n</tool_response>"
        "\n<tool_response>\nt\n</tool_response><|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
    )


@pytest.mark.parametrize("end", FALLBACKS)
def test_a_tokenizer_without_template_gets_the_one_for_its_end_of_turn(end: str) -> None:
    assert ChatTemplate.from_tokenizer(tokenizer(end)).source == FALLBACKS[end]
    assert ChatTemplate.from_tokenizer(tokenizer(end, "{{ x }}")).source == "{{ x }}"
    assert not ChatTemplate(FALLBACKS[end]).takes_tools


@pytest.mark.parametrize("name", ["hermes", "smollm2", "json", "llama3"])
def test_templates_that_know_no_tools_are_told_in_the_system_message(name: str) -> None:
    fmt = action_format(name)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    system, user = with_tools(chat, RECORD["tools"], fmt)
    assert user == chat[1]
    assert system["content"].startswith("Be kind.\n\n")
    listed = system["content"].split("<tools>\n")[1].split("\n</tools>")[0]
    assert [json.loads(line) for line in listed.splitlines()] == RECORD["tools"]
    shown = fmt.print(dialogue().messages[1].action).replace('"find_user_id_by_name_zip"', "N")
    form = system["content"].split("A call is ")[1].partition("\n")[2]
    assert form.split("<function name>")[0] == shown.split("N")[0]
    assert form.split("<function name>")[1].split("<")[0] == shown.split("N")[1].split("{")[0]
    assert form.split("arguments>")[1] == shown.split('"98178"}')[1]
    assert with_tools(chat[1:], RECORD["tools"], fmt)[0]["role"] == "system"
    assert with_tools(chat, (), fmt) == chat


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("hermes", CHATML, True),
        ("hermes", QWEN3, True),
        ("fenced_bash", CHATML, False),
        ("fenced_bash", QWEN3, False),
        ("react", QWEN3, False),
    ],
)
def test_agents_prompts_are_left_alone(name: str, source: str, told: bool) -> None:
    said = Message("assistant", "Thought, but no action.")
    trajectory = dataclasses.replace(dialogue(), messages=(Message("user", "hi"), said))
    tokens = tokenizer("<|im_end|>")
    (trunk,) = render(
        trajectory, tokens, ChatTemplate(source), action_format(name), Clip(), 10**9
    ).trunks
    text = tokens.decode(trunk.tokens.tolist())
    assert text.count('"find_user_id_by_name_zip"') == text.count("<tools>\n") == int(told)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fenced_bash", "r {}"),
        ("react", "Observation: r {}"),
        ("hermes", "<tool_response>\nr {}\n</tool_response>"),
    ],
)
def test_results_given_as_the_users_are_marked_by_the_format(name: str, expected: str) -> None:
    result, fmt = Message("tool", "r {}"), action_format(name)
    as_user = to_chat(result, fmt, RenderSettings(tool_role="user"))
    assert as_user == {"role": "user", "content": expected}
    assert to_chat(result, fmt) == {"role": "tool", "content": "r {}"}


def test_clipped_results_keep_their_marks() -> None:
    tokens = tokenizer("<|im_end|>")
    (trunk,) = render(
        dialogue(), tokens, ChatTemplate(CHATML), action_format("hermes"), Clip(observation=40),
        10**9, RenderSettings(tool_role="user"),
    ).trunks  # fmt: skip
    text = tokens.decode(trunk.tokens.tolist())
    found = dialogue().messages[8].content
    line = f"[... {len(found) - 40} tokens left out ...]"
    marked = f"<tool_response>\n{found[:20]}\n{line}\n{found[-20:]}\n</tool_response>"
    assert f"user\n{marked}<|im_end|>" in text


def test_templates_are_told_one_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(source).render([{"role": "user", "content": "hi"}]) == "26 Jul 2024"


def test_blocks_marked_for_trainers_are_plain() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate(source).render([{"role": "user", "content": "hi"}]) == "hi"


def test_variables_reach_the_template_and_its_fingerprint() -> None:
    source = "{{ 'low' if effort is not defined else effort }}"
    plain, set_ = ChatTemplate(source), ChatTemplate(source, {}, {"effort": "high"})
    assert (plain.render([]), set_.render([])) == ("low", "high")
    assert plain.fingerprint != set_.fingerprint
