"""IFEval (Zhou et al. 2023, arXiv 2311.07911): does an answer follow verifiable instructions?

24 of the 25 kinds are checked. `language:response_language` would need a language detector, so its
31 prompts of 541 are left out, and with them 51 instructions of 834. An empty answer follows
nothing.

The rules are those of the published checkers but for these, where they miss what the prompt says:
    english_capital, english_lowercase: the case is checked, that the text is English is not.
    number_sentences: by rules (`ifeval_text.sentences`) in place of NLTK's trained model.
    capital_word_frequency: contractions and abbreviations are one word; NLTK's tokenizer cuts some.
    letter_frequency: "#" and "!" are counted; there they are replaced by a random letter.
    existence, frequency: whole words, not parts of others ("mom" is not in "moment").
    number_bullet_lists: markdown items; "**bold**", "*emphasis*" and "---" at the start of a line
        are none.
    number_highlighted_sections: text between equal asterisks, without inner space at the ends.
    multiple_sections, postscript: the marker begins a line, or follows other text for a postscript.
    constrained_response: exactly one of the options, not several.
    json_format: an object or an array. repeat_prompt: something follows the prompt.
    nth_paragraph_first_word: paragraphs that are empty do not count.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.evaluation.suites.ifeval_text import (
    capital_words,
    count_phrase,
    first_word,
    paragraphs,
    sentences,
    words,
)

Arguments = Mapping[str, Any]

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_HIGHLIGHT = re.compile(r"(?<!\*)(\*{1,3})(?=[^\s*])[^*\n]*(?<=[^\s*])\1(?!\*)")
_SECTION_START = r"^[ \t#*_>\"“(]*{}\s*[0-9]"
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s\b"}
_ANYWHERE = r"(?:^|[\s*_(\"“]){}\W*\w"


def follows(answer: str, instruction: str, arguments: Arguments) -> bool:
    """Whether an answer follows one instruction of `CHECKS`. Never raises."""
    return bool(answer.strip()) and CHECKS[instruction](answer, arguments)


def _compare(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _letters(text: str, a: Arguments) -> bool:
    count = text.lower().count(a["letter"].lower())
    return _compare(count, a["let_relation"], a["let_frequency"])


def _bullets(text: str) -> int:
    lines = [line.strip() for line in text.splitlines()]
    return sum(
        line[:1] in ("*", "-", "+") and line[1:2].isspace() and bool(words(line)) for line in lines
    )


def _divided(text: str) -> int:
    """Paragraphs between *** dividers; -1 where one between two dividers is empty."""
    parts = [part.strip() for part in text.split("***")]
    inner = parts[1:-1]
    return sum(map(bool, parts)) if all(inner) else -1


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeats(text: str, a: Arguments) -> bool:
    """White space aside, and whatever the case."""
    said, asked = (" ".join(x.split()).casefold() for x in (text, a["prompt_to_repeat"]))
    return said.startswith(asked) and bool(words(said[len(asked) :]))


def _sections(text: str, a: Arguments) -> bool:
    start = _SECTION_START.format(re.escape(a["section_spliter"].strip()))
    return len(re.findall(start, text, flags=re.MULTILINE)) >= a["num_sections"]


def _postscript(text: str, a: Arguments) -> bool:
    marker = a["postscript_marker"].strip()
    pattern = _ANYWHERE.format(_POSTSCRIPTS.get(marker, re.escape(marker)))
    return re.search(pattern, text, flags=re.IGNORECASE | re.MULTILINE) is not None


def _json(text: str) -> bool:
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3]
        text = text[4:] if text[:4].lower() == "json" else text
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _paragraph_starts(text: str, a: Arguments) -> bool:
    parts, place = paragraphs(text), a["nth_paragraph"] - 1
    if len(parts) != a["num_paragraphs"]:
        return False
    return first_word(parts[place]) == a["first_word"].strip().casefold()


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] in '"“' and text[-1] in '"”'


def _ends_with(text: str, a: Arguments) -> bool:
    return text.strip().strip('"“”').strip().casefold().endswith(a["end_phrase"].strip().casefold())


CHECKS: Mapping[str, Callable[[str, Arguments], bool]] = MappingProxyType(
    {
        "change_case:capital_word_frequency": lambda text, a: _compare(
            len(capital_words(text)), a["capital_relation"], a["capital_frequency"]
        ),
        "change_case:english_capital": lambda text, _: text.isupper(),
        "change_case:english_lowercase": lambda text, _: text.islower(),
        "combination:repeat_prompt": _repeats,
        "combination:two_responses": lambda text, _: _two_responses(text),
        "detectable_content:number_placeholders": lambda text, a: (
            len(_PLACEHOLDER.findall(text)) >= a["num_placeholders"]
        ),
        "detectable_content:postscript": _postscript,
        "detectable_format:constrained_response": lambda text, _: (
            sum(option in text for option in _OPTIONS) == 1
        ),
        "detectable_format:json_format": lambda text, _: _json(text),
        "detectable_format:multiple_sections": _sections,
        "detectable_format:number_bullet_lists": lambda text, a: _bullets(text) == a["num_bullets"],
        "detectable_format:number_highlighted_sections": lambda text, a: (
            len(_HIGHLIGHT.findall(text)) >= a["num_highlights"]
        ),
        "detectable_format:title": lambda text, _: any(map(str.strip, _TITLE.findall(text))),
        "keywords:existence": lambda text, a: all(count_phrase(text, k) for k in a["keywords"]),
        "keywords:forbidden_words": lambda text, a: (
            not any(count_phrase(text, word) for word in a["forbidden_words"])
        ),
        "keywords:frequency": lambda text, a: _compare(
            count_phrase(text, a["keyword"]), a["relation"], a["frequency"]
        ),
        "keywords:letter_frequency": _letters,
        "length_constraints:nth_paragraph_first_word": _paragraph_starts,
        "length_constraints:number_paragraphs": lambda text, a: (
            _divided(text) == a["num_paragraphs"]
        ),
        "length_constraints:number_sentences": lambda text, a: _compare(
            sentences(text), a["relation"], a["num_sentences"]
        ),
        "length_constraints:number_words": lambda text, a: _compare(
            len(words(text)), a["relation"], a["num_words"]
        ),
        "punctuation:no_comma": lambda text, _: "," not in text,
        "startend:end_checker": _ends_with,
        "startend:quotation": lambda text, _: _quoted(text),
    }
)
