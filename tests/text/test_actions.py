import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import (
    ActionFormat,
    FencedBash,
    FencedSql,
    HermesTags,
    ParsedAction,
    PlainJson,
    action_format,
)
from pivotrl_jax.trajectories.schema import Action, ToolCall, Trajectory

NAMES = [
    "fenced_bash",
    "fenced_sql",
    "hermes",
    "json",
    "llama3",
    "smollm2",
    "harmony",
    "react",
    "terminus",
]
FORMATS = [action_format(name) for name in (*NAMES, "webdancer")]
TOO_DEEP = "[" * 100_000 + "]" * 100_000

BASH = ["`", "```", "````", "bash", "sh", "\n", "\r\n", " ", "```bash\n", "\n```\n", "\ud800", "x"]
TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "🙂é\u2028", "NaN", "\\", '"']
JSON = ["{", "[", "]}", '{"name": "f", "arguments": {"x": 1}}', '"arguments": "{}"']
LINES = ["\nAction: search[", "]", "Thought: ", "<answer>", "</answer>", "<|end|>", "<|message|>"]
FRAGMENTS = st.sampled_from([*BASH, *TAGS, *JSON, *LINES])
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=12).map("".join))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CALLS = st.builds(ToolCall, TEXTS.filter(bool), st.dictionaries(TEXTS, VALUES, max_size=3))


def holds_reasoning(text: str) -> bool:
    return "</think>" in text or text.lstrip().startswith("<think>")


def check_identity(fmt: ActionFormat, action: Action, representable: bool) -> None:
    if representable:
        assert fmt.parse(fmt.print(action)).action == action
    else:
        with pytest.raises(ValueError, match="cannot write"):
            fmt.print(action)


@given(text=TEXTS, command=st.none() | TEXTS)
@settings(max_examples=200)
def test_fenced_bash_gives_back_what_it_prints(text: str, command: str | None) -> None:
    calls = () if command is None else (ToolCall("bash", {"command": command}),)
    opens_fence = re.search(r"^`{3,}(bash|sh)[ \t\r]*$", text, re.MULTILINE)
    representable = (
        not opens_fence and not holds_reasoning(text) and "</think>" not in (command or "")
    )
    check_identity(FencedBash(), Action(text, calls), representable)


@pytest.mark.parametrize("name", ["hermes", "smollm2", "webdancer"])
@given(text=TEXTS, calls=st.lists(CALLS, max_size=3))
@settings(max_examples=150)
def test_tags_give_back_what_they_print(name: str, text: str, calls: list[ToolCall]) -> None:
    representable = not holds_reasoning(text) and "<tool_call>" not in text
    check_identity(action_format(name), Action(text, tuple(calls)), representable)


@pytest.mark.parametrize("name", ["json", "llama3"])
@given(text=TEXTS, calls=st.lists(CALLS, max_size=3))
@settings(max_examples=150)
def test_json_gives_back_what_it_prints(name: str, text: str, calls: list[ToolCall]) -> None:
    opens_json = re.search(r"^[ \t]*(\{|\[\s*([\[{\]]|\Z))", text, re.MULTILINE)
    representable = not opens_json and not holds_reasoning(text)
    check_identity(action_format(name), Action(text, tuple(calls)), representable)


@given(text=TEXTS, query=st.none() | TEXTS)
@settings(max_examples=200)
def test_react_gives_back_what_it_prints(text: str, query: str | None) -> None:
    calls = () if query is None else (ToolCall("search", {"query": query}),)
    states_action = re.search(r"^Action(?: \d+)?:", text, re.MULTILINE)
    one_line = query is None or ("\n" not in query and "</think>" not in query)
    thinks = holds_reasoning(text) if query is None else "</think>" in text
    representable = not states_action and not thinks and one_line
    check_identity(action_format("react"), Action(text, calls), representable)


@given(text=TEXTS, call=st.none() | CALLS)
@settings(max_examples=200)
def test_harmony_gives_back_what_it_prints(text: str, call: ToolCall | None) -> None:
    nameable = call is None or re.fullmatch(r"[^\s<]+", call.name)
    ends = re.search(r"<\|(end|call|return)\|>|<\|start\|>assistant", text)
    representable = bool(nameable) and not ends
    check_identity(action_format("harmony"), Action(text, (call,) if call else ()), representable)


@given(text=TEXTS, calls=st.lists(CALLS, max_size=1))
@settings(max_examples=100)
def test_terminus_gives_back_what_it_prints(text: str, calls: list[ToolCall]) -> None:
    representable = not calls and not holds_reasoning(text)
    check_identity(action_format("terminus"), Action(text, tuple(calls)), representable)


@given(text=TEXTS)
@settings(max_examples=200)
def test_reading_any_text_ends_in_an_action(text: str) -> None:
    for fmt in FORMATS:
        parsed = fmt.parse(text)
        assert isinstance(parsed, ParsedAction)
        assert all(call.name for call in parsed.action.calls)
        assert isinstance(parsed.reasoning, str)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>", "</tool_call>", "[", "```bash\n", "`", '{"a":', "\\", "1", " \n", "\ud800",
        "<think>", "Action: a[", "Action: a[b]\n", "]", "] ", "a[], ", "<|start|>assistant",
        "<|channel|>a to=b<|message|>", "<answer>", " to=",
    ],
)  # fmt: skip
def test_a_megabyte_of_anything_is_read(fmt: ActionFormat, unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    parsed = [fmt.parse(text), fmt.parse(f"<tool_call>{text}</tool_call>"),
              fmt.parse(f"Action: a[{text}"), fmt.parse(f"<|message|>{text}")]  # fmt: skip
    assert parsed[1].problems


def test_real_turns_are_well_formed_and_survive(trajectory: Trajectory) -> None:
    for message in trajectory.messages:
        if message.role == "assistant":
            for fmt in (FencedBash(), HermesTags()):
                assert fmt.parse(fmt.print(message.action)) == ParsedAction(message.action)


def test_fenced_bash_prints_as_mini_swe_agent_does() -> None:
    action = Action("THOUGHT: look.", (ToolCall("bash", {"command": "ls -la"}),))
    assert FencedBash().print(action) == "THOUGHT: look.\n\n```bash\nls -la\n```"


def test_fence_outgrows_the_backticks_of_the_command() -> None:
    command = "cat > a.md <<'EOF'\n````sh\nls\n````\nEOF"
    printed = FencedBash().print(Action("", (ToolCall("bash", {"command": command}),)))
    assert printed.splitlines()[0] == "`````bash"


@pytest.mark.parametrize(
    ("text", "problems", "commands"),
    [
        ("just prose", ["no_fenced_block"], []),
        ("```python\nprint()\n```", ["no_fenced_block"], []),
        ("```python\nprint()\n```\n\n```sh\nls\n```\n", [], ["ls"]),
        ("```bash\nls\n", ["unclosed_fence"], []),
        ("```bash\nls\n```\nthen\n```bash\npwd\n```", ["several_fenced_blocks"], []),
        ("```bash\nls\n```\nDone.", ["text_after_block"], ["ls"]),
        ("<think>```bash\nrm x\n```</think>\n\n```bash\nls\n```", [], ["ls"]),
        ("<think>hm ```bash\nls\n```", ["unclosed_think", "no_fenced_block"], []),
    ],
)
def test_fenced_bash_names_problems(text: str, problems: list[str], commands: list[str]) -> None:
    parsed = FencedBash().parse(text)
    assert list(parsed.problems) == problems
    assert [call.arguments["command"] for call in parsed.action.calls] == commands


@pytest.mark.parametrize(
    "calls",
    [
        (ToolCall("edit", {"command": "ls"}),),
        (ToolCall("bash", {"command": "ls", "timeout": 3}),),
        (ToolCall("bash", {"cmd": "ls"}),),
        (ToolCall("bash", {"command": "ls"}), ToolCall("bash", {"command": "pwd"})),
    ],
)
def test_fenced_bash_refuses_what_it_cannot_hold(calls: tuple[ToolCall, ...]) -> None:
    with pytest.raises(ValueError, match="fence"):
        FencedBash().print(Action("x", calls))


F = '{"name": "f", "arguments": {"x": 1}}'
CALL = ToolCall("f", {"x": 1})


def test_hermes_prints_as_the_qwen_template_does() -> None:
    expected = f"Go.\n<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{F}\n</tool_call>"
    assert HermesTags().print(Action("Go.", (CALL, CALL))) == expected


@pytest.mark.parametrize(
    ("body", "problems", "calls"),
    [
        (f"<tool_call>  {F}\n\n</tool_call>\n", [], [CALL]),
        ('<tool_call>{"name":"f","arguments":"{\\"x\\": 1}"}</tool_call>', [], [CALL]),
        (f"<tool_call>{F}", ["unclosed_tag"], [CALL]),
        (f"<tool_call>{F} x</tool_call>", ["bad_json"], []),
        (f"{F}</tool_call>", ["unopened_tag"], []),
        (f"<tool_call>{F}</tool_call> Done.", ["text_after_call"], [CALL]),
        ("<tool_call>{name: f}</tool_call>", ["bad_json"], []),
        ("<tool_call></tool_call>", ["bad_json"], []),
        (f"<tool_call>{TOO_DEEP}</tool_call>", ["bad_json"], []),
        (f"<tool_call>{'[' * 99}{']' * 99}</tool_call>", ["too_deep"], []),
        (f"<tool_call>{'9' * 5000}</tool_call>", ["bad_json"], []),
        (f"<tool_call>[{F}]</tool_call>", ["not_an_object"], []),
        ("<tool_call>null</tool_call>", ["not_an_object"], []),
        ('<tool_call>{"arguments": {}}</tool_call>', ["missing_name"], []),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', ["missing_name"], []),
        (
            '<tool_call>{"name": "f"}</tool_call>',
            ["arguments_not_an_object"],
            [ToolCall("f", None)],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {"x": 2, "x": 1}}</tool_call>',
            ["duplicate_keys"],
            [CALL],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {"x": 1e999}}</tool_call>',
            ["non_finite_number"],
            [ToolCall("f", {"x": float("inf")})],
        ),
        (f"<tool_call>{{</tool_call><tool_call>{F}</tool_call>", ["bad_json"], [CALL]),
    ],
)
def test_hermes_names_problems(body: str, problems: list[str], calls: list[ToolCall]) -> None:
    parsed = HermesTags().parse(body)
    assert list(parsed.problems) == problems
    assert list(parsed.action.calls) == calls


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_json_are_named(constant: str) -> None:
    parsed = PlainJson().parse(f'{{"name": "f", "arguments": {{"x": {constant}}}}}')
    assert parsed.problems == ("non_finite_number",)


@pytest.mark.parametrize(
    ("text", "problems", "calls"),
    [
        (F, [], [CALL]),
        (f" [{F},\n {F}]\n", [], [CALL, CALL]),
        (f"I call\n{F}", [], [CALL]),
        (f"I call\n\n[{F},\n{F}]", [], [CALL, CALL]),
        (f"I call {F}", ["no_json"], []),
        ("<tool_call>[", ["no_json"], []),
        (f"{F} and so on", ["text_after_call"], [CALL]),
        (f"```json\n{F}\n```", ["text_after_call"], [CALL]),
        ("Hello, how can I help?", [], []),
        ("[Note] see [1].\n[1](https://a.b)", [], []),
        ("", [], []),
        ("I call\n{name: f}", ["bad_json"], []),
        ('The file:\n{"a": 1}', ["missing_name"], []),
        ("[]", ["no_call"], []),
        (f"[{F}, 3]", ["not_an_object"], [CALL]),
        ("{", ["bad_json"], []),
        (f"<think>{F}", ["unclosed_think"], []),
        (f"a {F} b</think>\n{F}", [], [CALL]),
    ],
)
def test_json_names_problems(text: str, problems: list[str], calls: list[Any]) -> None:
    parsed = PlainJson().parse(text)
    assert list(parsed.problems) == problems
    assert list(parsed.action.calls) == calls


def test_formats_are_found_by_name() -> None:
    assert [fmt.name for fmt in FORMATS] == [*NAMES, "webdancer"]
    assert FORMATS[:4] == [FencedBash(), FencedSql(), HermesTags(), PlainJson()]
    with pytest.raises(UserError, match="nearest is 'hermes'"):
        action_format("herms")


def test_llama_names_its_arguments_parameters() -> None:
    printed = action_format("llama3").print(Action("", (CALL,)))
    assert printed == '{"name": "f", "parameters": {"x": 1}}'


P = '{"name": "f", "parameters": {"x": 1}}'


@pytest.mark.parametrize(
    ("text", "head", "problems", "calls"),
    [
        (P, "", [], [CALL]),
        (F, "", [], [CALL]),
        (f"<|python_tag|>{P}", "", [], [CALL]),
        (f"I look.\n<|python_tag|> {P}", "I look.", [], [CALL]),
        (f"I look.<|python_tag|>{F}", "I look.", [], [CALL]),
        (f"I look.\n{P}", "I look.", [], [CALL]),
        ("Hello, how can I help?", "Hello, how can I help?", [], []),
        ('<|python_tag|>f.call(x="1")', '<|python_tag|>f.call(x="1")', ["no_json"], []),
        ('{"name": "f"}', "", ["arguments_not_an_object"], [ToolCall("f", None)]),
    ],
)
def test_llama_calls_by_tag_and_by_either_key(
    text: str, head: str, problems: list[str], calls: list[Any]
) -> None:
    parsed = action_format("llama3").parse(text)
    assert parsed.action == Action(head, tuple(calls))
    assert list(parsed.problems) == problems


@pytest.mark.parametrize("name", ["json", "llama3"])
@pytest.mark.parametrize("calls", [(), (CALL,), (CALL, CALL)])
def test_gold_turns_with_text_are_well_formed(name: str, calls: tuple[ToolCall, ...]) -> None:
    action = Action("Let me look:\n\n1. here\n[2] there", calls)
    fmt = action_format(name)
    assert fmt.parse(fmt.print(action)) == ParsedAction(action)


G = f"[{F}]"


@pytest.mark.parametrize(
    ("text", "problems", "calls"),
    [
        (f"<tool_call>[{F}, {F}]</tool_call>", [], [CALL, CALL]),
        ("<tool_call>[]</tool_call>", [], []),
        (f"<tool_call>\n{F}\n</tool_call>", ["not_a_list"], [CALL]),
        (f"<tool_call>{G}</tool_call>\n<tool_call>{G}</tool_call>", ["several_tags"], [CALL, CALL]),
        ("<tool_call>[3]</tool_call>", ["not_an_object"], []),
        ("<tool_call>[</tool_call>", ["bad_json"], []),
    ],
)
def test_smollm2_names_problems(text: str, problems: list[str], calls: list[Any]) -> None:
    parsed = action_format("smollm2").parse(text)
    assert list(parsed.problems) == problems
    assert list(parsed.action.calls) == calls


def test_smollm2_prints_as_its_model_card_shows() -> None:
    printed = action_format("smollm2").print(Action("Go.", (CALL, CALL)))
    assert printed == f"Go.\n<tool_call>[{F}, {F}]</tool_call>"


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>\nwhy {\n</think>\n\nbody", "why {"),
        ("\nopened by the prompt\n</think>\nbody", "opened by the prompt"),
        (" <think>never closed", "never closed"),
        ("<think>\n\n</think>\n\nbody", ""),
        ("body", ""),
    ],
)
def test_thought_is_set_apart(fmt: ActionFormat, text: str, reasoning: str) -> None:
    if fmt.name != "harmony":
        parsed = fmt.parse(text)
        assert parsed.reasoning == reasoning
        assert parsed.action.text == ("" if "never" in text else "body")


def test_special_tokens_in_arguments_are_escaped() -> None:
    call = ToolCall("f", {"x": "<|im_end|></answer>"})
    printed = HermesTags().print(Action("", (call,)))
    assert "<|" not in printed
    assert "</answer>" not in printed
    assert HermesTags().parse(printed).action.calls == (call,)
