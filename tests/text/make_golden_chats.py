"""Write golden/chats.json: a real dialogue as the published chat templates write it.

Run where transformers is installed, with the folder of templates that TRL's wheel carries:
    python tests/text/make_golden_chats.py trl/chat_templates

The reference is Hugging Face transformers' rendering of messages with `tool_calls`. Templates under
Apache-2.0 are kept whole. Of Llama's and Gemma's, whose licences say otherwise, only what they make
of the dialogue is kept: without tools, and from the user's first message on.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
# Thoughts that the dialogue does not have, by the place of their message.
THOUGHTS = {1: "A name and a zip code.", 3: "Not found.", 5: "The zip was wrong.", 9: "The last?"}
OPEN = ("qwen3", "qwen3_instruct_2507", "gptoss")
CLOSED = ("llama3_2", "gemma3")
CASES: list[tuple[str, bool, dict[str, Any]]] = [
    ("qwen3", False, {}),
    ("qwen3", True, {}),
    ("qwen3", False, {"enable_thinking": False}),
    ("qwen3_instruct_2507", False, {}),
    ("gptoss", False, {"reasoning_effort": "low"}),
    ("gptoss", True, {}),
    ("llama3_2", False, {}),
    ("gemma3", False, {}),
]


class Fixed(datetime.datetime):
    """The day that pivotrl_jax.text tells templates, whichever it is."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "Fixed":
        return cls(2024, 7, 26)


def structured(messages: list[dict[str, Any]], name: str, thoughts: bool) -> list[dict[str, Any]]:
    chat = []
    for index, entry in enumerate(messages):
        message = {"role": entry["role"], "content": entry["content"]}
        if thoughts and index in THOUGHTS:
            key = "thinking" if name == "gptoss" else "reasoning_content"
            message[key] = THOUGHTS[index]
        if "calls" in entry:
            message["tool_calls"] = [{"type": "function", "function": c} for c in entry["calls"]]
        # Gemma 3 has no tools: calls are text and results the user's.
        if name == "gemma3" and "calls" in entry:
            call = entry["calls"][0]
            stated = {"name": call["name"], "parameters": call["arguments"]}
            message = {"role": "assistant", "content": json.dumps(stated)}
        if name == "gemma3" and entry["role"] == "tool":
            message["role"] = "user"
        chat.append(message)
    return chat


def written(chat: list[dict], source: str, tools: list | None, prompt: bool, **options: Any) -> str:
    texts, _ = chat_template_utils.render_jinja_template(
        [chat],
        tools=tools,
        chat_template=source,
        add_generation_prompt=prompt,
        bos_token="<bos>",
        **options,
    )
    return texts[0]


def main(folder: Path) -> None:
    chat_template_utils.datetime = Fixed
    record = json.loads((HERE / "data" / "tau2_retail.json").read_text(encoding="utf-8"))
    sources = {name: (folder / f"{name}.jinja").read_text() for name in (*OPEN, *CLOSED)}
    cases = []
    for name, thoughts, variables in CASES:
        chat = structured(record["messages"], name, thoughts)
        tools = record["tools"] if name in OPEN else None
        full = written(chat, sources[name], tools, False, **variables)
        prompt = written(chat[:-1], sources[name], tools, True, **variables)
        if name == "llama3_2":
            full, prompt = (
                text[text.index("<|start_header_id|>user") :] for text in (full, prompt)
            )
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        case = {"template": name, "thoughts": thoughts, "variables": variables}
        cases.append(case | {"full": full, "prompt_sha256": digest})
    golden = {
        "made_with": {"transformers": transformers.__version__, "trl": "1.16.0"},
        "licence": "templates: Apache-2.0 (Qwen, OpenAI)",
        "thoughts": {str(index): thought for index, thought in THOUGHTS.items()},
        "templates": {name: sources[name] for name in OPEN},
        "cases": cases,
    }
    target = HERE / "golden" / "chats.json"
    target.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
