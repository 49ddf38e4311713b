"""Words, sentences and paragraphs of an answer, as IFEval's instructions count them."""

import re

_WORD = re.compile(r"\w+")
# "U.S.", "PS5", "DON'T" and "SELF-MADE" are one word each.
_JOINED = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_CLOSING = "\"'”’)]*_"
_ENDS = (".", "!", "?", "…", "。", "！", "？")
_NUMBERING = re.compile(r"\(?[0-9]{1,3}[.)]")
_ABBREVIATIONS = ("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "sr.", "vs.", "e.g.", "i.e.")


def words(text: str) -> list[str]:
    r"""Runs of letters, digits and underscores, as published: "don't" is two."""
    return _WORD.findall(text)


def capital_words(text: str) -> list[str]:
    """Words with letters, all of them capital; "I" is one."""
    return [word for word in _JOINED.findall(text) if word.isupper()]


def sentences(text: str) -> int:
    """How many sentences the text has.

    A sentence ends at a word that ends in . ! or ?, unless that is an abbreviation, an initial or
    the number of a list item; what is left without such an end counts as one. (The published
    checker asks a trained model of NLTK.) Lines and headings do not end a sentence, as there.
    """
    count, begun = 0, False
    for word in text.split():
        begun = begun or (_has_words(word) and not _NUMBERING.fullmatch(word))
        if begun and _ends(word):
            count, begun = count + 1, False
    return count + begun


def paragraphs(text: str) -> list[str]:
    """Parts between blank lines, without empty ones."""
    return [part.strip() for part in _BLANK_LINES.split(text) if part.strip()]


def first_word(text: str) -> str:
    """Folded to lower case, without the punctuation around it; "" if there is none."""
    found = _JOINED.search(text)
    return found[0].casefold() if found else ""


def count_phrase(text: str, phrase: str) -> int:
    """How often `phrase` stands in the text as whole words, in any case."""
    pattern = rf"(?<!\w){re.escape(phrase.strip())}(?!\w)"
    return len(re.findall(pattern, text, flags=re.IGNORECASE))


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _ends(word: str) -> bool:
    bare = word.rstrip(_CLOSING)
    initial = len(bare) == 2 and bare[0].isupper() and bare != "I."
    return (
        bare.endswith(_ENDS) and not initial and bare.lstrip("\"'“(").lower() not in _ABBREVIATIONS
    )
