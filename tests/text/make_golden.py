"""Write golden/smollm2.json: SmolLM2's own tokens of some texts, and the part of it they need.

Run where transformers and gguf are installed:
    python tests/text/make_golden.py SmolLM2-135M-Instruct.gguf

The reference is Hugging Face transformers' tokenizer of the GGUF file. Its conversion drops the
splitting of digits that SmolLM2's tokenizer.json has, so that is put back, and the result is held
against the hash by which llama.cpp recognises the original tokenizer (get_vocab_base_pre).
"""

import hashlib
import json
import sys
from pathlib import Path

import gguf
import tokenizers
import transformers
from tokenizers import pre_tokenizers

LLAMA_CPP_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis "
    "concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 "
    "កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not "
    "sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
LLAMA_CPP_SHA256 = "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249"

TEXTS = [
    LLAMA_CPP_TEXT,
    "",
    " ",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "a<|im_end|>b <|im_end|> <|im_end >",
    "THOUGHT: look around.\n\n```bash\nls -la && sed -n '10,25p' src/x_1.py\n```<|im_end|>\n",
    'for i in range(1024):\n\tif i % 3 == 0:\r\n        print(f"{i:>5}")  # naïve\n\n\n',
    "<returncode>0</returncode>\n<output>\n-rw-r--r-- 1 root 6815 Nov 22 02:19 a.md\n</output>",
    '{"name": "bash", "arguments": {"command": "grep -rn \\"def \\" ."}}',
    "1234567890 3.14159 2.0.1rc3 0xdeadBEEF ½ ٣٤ Ⅷ",
    "tabs\t\tspaces    nbsp\u00a0 ideographic\u3000 zero\u200bwidth\u0000null",
    "Ünïcödé — “quotes” don't we'll THEY'RE 日本語テキスト ไทย 🏳️‍🌈 e\u0301",
]


def reference(path: Path) -> transformers.PreTrainedTokenizerBase:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    ids = tokenizer.encode(LLAMA_CPP_TEXT)
    assert hashlib.sha256(str(ids).encode()).hexdigest() == LLAMA_CPP_SHA256
    return tokenizer


def needed(tokens: list[str], merges: list[str]) -> tuple[list[int], list[str]]:
    """Ids and merges that can play a part in TEXTS; no other merge can ever apply to them."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [byte_level.pre_tokenize_str(text)[0][0] for text in TEXTS if text]
    kept = [m for m in merges if any(m.replace(" ", "") in text for text in texts)]
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    names = alphabet | {part for m in kept for part in (*m.split(" "), m.replace(" ", ""))}
    return [i for i, t in enumerate(tokens) if t in names or t.startswith("<")], kept


def main(path: Path) -> None:
    fields = gguf.GGUFReader(path).fields

    def field(name: str) -> list[str]:
        return fields[f"tokenizer.{name}"].contents()

    tokens, types = field("ggml.tokens"), field("ggml.token_type")
    ids, merges = needed(tokens, field("ggml.merges"))
    tokenizer = reference(path)
    golden = {
        "made_with": {m.__name__: m.__version__ for m in (transformers, tokenizers)},
        "llama_cpp_sha256": LLAMA_CPP_SHA256,
        "chat_template": field("chat_template"),
        "ids": ids,
        "tokens": [tokens[i] for i in ids],
        "token_types": [types[i] for i in ids],
        "merges": merges,
        "pairs": [[text, tokenizer.encode(text)] for text in TEXTS],
    }
    target = Path(__file__).parent / "golden" / "smollm2.json"
    target.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
