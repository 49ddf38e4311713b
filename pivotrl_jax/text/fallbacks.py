"""Chat templates for tokenizers that come without one, by the token that ends a turn.

Written from the published descriptions of the formats. None of them reads `tools`: those are told
of in the system message (`text.tools`).
"""

from collections.abc import Mapping
from types import MappingProxyType

# Hermes and Qwen: tool results in tags, those of one turn in one message of the user.
_CHATML = r"""
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# llama.com, model cards and prompt formats, 3.1: tool results have the role ipython.
_LLAMA3 = r"""
{{- bos_token | default('<|begin_of_text|>') }}
{%- for message in messages %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

# ai.google.dev/gemma/docs/core/prompt-structure: two roles, which alternate, so that system
# messages and tool results belong to the user, and what one side says in a row is one turn.
_GEMMA3 = r"""
{{- bos_token | default('<bos>') }}
{%- for message in messages %}
{%- set model = message.role == 'assistant' %}
{%- if loop.first or model or loop.previtem.role == 'assistant' %}
{{- '<start_of_turn>' + ('model' if model else 'user') + '\n' }}
{%- else %}{{ '\n\n' }}
{%- endif %}
{{- message.content }}
{%- if loop.last or model or loop.nextitem.role == 'assistant' %}{{ '<end_of_turn>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

FALLBACKS: Mapping[str, str] = MappingProxyType(
    {"<|im_end|>": _CHATML, "<|eot_id|>": _LLAMA3, "<end_of_turn>": _GEMMA3}
)
