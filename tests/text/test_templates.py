import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import BpeTokenizer, ChatTemplate

USER = {"role": "user", "content": "hi"}


def test_smollm2_template(smollm2: BpeTokenizer) -> None:
    text = ChatTemplate.from_tokenizer(smollm2).render([USER], add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_blocks_leave_no_whitespace_and_loops_break() -> None:
    source = "{% for m in messages %}\n  {% if loop.index == 2 %}{% break %}{% endif %}\n"
    source += "{{ m.content }}|\n{% endfor %}\n"
    assert ChatTemplate(source).render([USER, USER]) == "hi|\n"


def test_tojson_is_plain_json() -> None:
    source = "{{ tools | tojson }}{{ messages[0] | tojson(indent=1) }}"
    text = ChatTemplate(source).render([{"role": "<é>"}], [{"b": "'&'", "a": 1}])
    assert text == '[{"b": "\'&\'", "a": 1}]{\n "role": "<é>"\n}'


def test_no_tools_are_none() -> None:
    assert ChatTemplate("{{ tools is none }}").render([USER]) == "True"


def test_special_tokens_are_variables(smollm2: BpeTokenizer) -> None:
    template = ChatTemplate("{{ bos_token }}{{ eos_token }}", smollm2.special_tokens)
    assert template.render([USER]) == "<|im_start|><|im_end|>"
    assert template.fingerprint != ChatTemplate(template.source).fingerprint


def test_a_tokenizer_without_template_is_refused() -> None:
    tokenizer = BpeTokenizer.from_gguf(["a", "</s>"], [], [1, 3], "smollm", 1, None)
    with pytest.raises(UserError, match="no chat template: put a"):
        ChatTemplate.from_tokenizer(tokenizer)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{% for _ in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    messages = [dict(USER)]
    with pytest.raises(UserError, match="line 1 of the chat template fails"):
        ChatTemplate(source).render(messages)
    assert messages == [USER]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
        ("{{ messages[0]['content'] + 3 }}", "TypeError: can only concatenate str"),
        ("{{ missing.field }}", "UndefinedError: 'missing' is undefined"),
        ("{% if %}", "TemplateSyntaxError: Expected an expression"),
    ],
)
def test_a_failing_template_is_one_clear_error(line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatTemplate(f"{{% set x = 1 %}}\n\n{line}\n").render([USER])
    text = str(caught.value)
    assert text.startswith("line 3 of the chat template fails with ")
    assert message in text
    assert "\n" not in text
