"""How alike two texts are: symmetric measures in [0, 1], bounded in time, 1 for equal texts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable
from decimal import Decimal

from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

_MAX_COMPARED = 20_000  # characters; 20 ms for two texts that have nothing in common
_MAX_WORDS = 4_000
_MAX_STATED = 50_000  # characters
_MAX_QUOTED = 80  # characters of a quotation that is a fact rather than a passage
_WORD = re.compile(r"\w+")
# A quotation before a colon is the key of a JSON object.
_QUOTED = re.compile(rf'"([^"\n]{{1,{_MAX_QUOTED}}})"(?P<key>:)?|“([^”\n]{{1,{_MAX_QUOTED}}})”')
_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,2}[.)](?=[ \t])", re.MULTILINE)
_AROUND = ".,;:!?()[]{}<>'\"`*_~“”‘’$€£+"  # what prose puts around a number or an id
_NUMBER = re.compile(r"-?[0-9]{1,24}(?:\.[0-9]{1,6})?")
_PARTS = re.compile(r"[-/:–]")


def plain(text: str) -> str:
    """Unicode NFC without outer white space."""
    return unicodedata.normalize("NFC", text).strip()


def words(text: str) -> list[str]:
    """The case-folded runs of letters, digits and underscores."""
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def ratio(a: str, b: str) -> float:
    """Indel similarity; what lies beyond the first 20,000 characters counts as different."""
    if a == b:
        return 1.0
    heads = a[:_MAX_COMPARED], b[:_MAX_COMPARED]
    compared = sum(map(len, heads)) / (len(a) + len(b))
    return fuzz.ratio(*heads) / 100 * compared


def word_ratio(a: str, b: str) -> float:
    """Indel similarity of the sequences of words; neither punctuation nor case counts.

    Of two unrelated messages of one dialogue about 0.15, of two answers to one about 0.45: words
    tell them apart better than characters do. A text without any word is compared as it stands.
    """
    first, second = words(a), words(b)
    if not first or not second:
        return ratio(plain(a), plain(b))
    heads = first[:_MAX_WORDS], second[:_MAX_WORDS]
    compared = sum(map(len, heads)) / (len(first) + len(second))
    return Indel.normalized_similarity(*heads) * compared


def dice(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """F1 overlap of two multisets; 1 where both are empty."""
    counts, others = Counter(iter(a)), Counter(iter(b))  # a mapping would be taken for counts
    total = counts.total() + others.total()
    return 2 * (counts & others).total() / total if total else 1.0


def facts(text: str) -> frozenset[str]:
    """Numbers by value, ids, addresses and short quotations that a text states, case-folded.

    A date or time in figures counts as its numbers. Numbers in words, names of months and what
    a fact is said of are not seen, nor is what follows the first 50,000 characters.
    """
    text = unicodedata.normalize("NFC", text[:_MAX_STATED]).casefold()
    text = _LIST_NUMBER.sub("", text)
    quoted = (" ".join(words(match[0])) for match in _QUOTED.finditer(text) if not match["key"])
    stated = (fact for token in text.split() for fact in _token_facts(token.strip(_AROUND)))
    return frozenset(filter(None, quoted)) | frozenset(stated)


def number(token: str) -> str | None:
    """`token` as the one spelling of its value ("1,234.50" and "$1234.5" are "1234.5")."""
    bare = token.strip("$€£+%").replace(",", "")
    return f"{Decimal(bare).normalize():f}" if _NUMBER.fullmatch(bare) else None


def _token_facts(token: str) -> list[str]:
    if not any(c.isdigit() or c == "@" for c in token):
        return []
    parts = _PARTS.split(token)
    pieces = parts if len(parts) > 1 and all(map(number, parts)) else [token]
    return [number(piece) or piece for piece in pieces]
