"""Normal forms of what a search agent writes: queries, addresses and answers."""

import re
import unicodedata
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from pivotrl_jax.verifiers.texts import number

_MAX_URL = 4_000  # characters
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"(?:(?<!\S)-)?\d+(?:\.\d+)?(?!\w)|\w+[+#]*")  # C++ and C# are not C
_ARTICLES = frozenset({"a", "an", "the"})
# Words that seldom change what a query finds. Question words and "not" do.
_STOP_WORDS = _ARTICLES | frozenset(
    {"of", "in", "on", "at", "for", "to", "by", "and", "is", "are", "was", "were", "be", "do",
     "does", "did"}
)  # fmt: skip
_QUESTION_WORDS = frozenset(
    {"who", "what", "which", "where", "when", "why", "how", "can", "could", "has", "have", "had",
     "if", "i", "list", "name", "find"}
)  # fmt: skip
# These ask for different things; "what" and "which" may ask for any.
_ASKING = frozenset({"who", "where", "when", "why", "how"})
_NEGATION = re.compile(r"\b(?:not|no|never|without|except|cannot|[a-z]{2,9}n['’]t)\b")
_SPELT = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
_WORD_VALUES = {word: str(value) for value, word in enumerate(_SPELT)}
_WORD_VALUES |= {"true": "yes", "false": "no"}
_TRACKING = re.compile(r"utm_\w+|gclid|fbclid|msclkid|mc_[ce]id|igshid")
_PORTS = {"http": 80, "https": 443}


def query_words(text: str) -> list[str]:
    """The words of a search query: no case, no punctuation, no stop words, numbers by value."""
    return _without(_tokens(text), _STOP_WORDS)


def subject_words(text: str) -> list[str]:
    """The words of a query less those that only make it a question."""
    return _without(query_words(text), _QUESTION_WORDS)


def ask_alike(a: str, b: str) -> bool:
    """Both queries negate something, or neither does; no "when" where the other has "where"."""
    negated = [bool(_NEGATION.search(text.casefold())) for text in (a, b)]
    asked = [_ASKING.intersection(_tokens(text)) for text in (a, b)]
    return negated[0] == negated[1] and (not all(asked) or not asked[0].isdisjoint(asked[1]))


def named_words(text: str) -> frozenset[str]:
    """The words of a query that name something: capitalised, or with a digit; case-folded."""
    found = (word for token in text.split() if token.strip("\"'“‘(")[:1].isupper()
             or any(map(str.isdigit, token)) for word in _tokens(token))  # fmt: skip
    return frozenset(found) - _STOP_WORDS - _QUESTION_WORDS


def answer_words(text: str) -> list[str]:
    """The words of a short answer as SQuAD compares them, and numbers and yes or no by value."""
    return [_WORD_VALUES.get(word, word) for word in _without(_tokens(text), _ARTICLES)]


def address(text: str) -> str:
    """A URL without fragment, tracking parameters, default port and trailing slash.

    Scheme and host lose their case and parameters are sorted; anything else stays, a missing
    scheme included. What is no URL, or longer than 4,000 characters, is returned as it is.
    """
    text = text.strip()
    if len(text) > _MAX_URL:
        return text
    try:
        parts = urlsplit(text)
        return _joined(parts, parts.port)
    except ValueError:
        return text


def _joined(parts: SplitResult, port: int | None) -> str:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode(sorted(pair for pair in pairs if not _TRACKING.fullmatch(pair[0])))
    host = parts.hostname or ""
    place = host if port is None or port == _PORTS.get(parts.scheme) else f"{host}:{port}"
    path = unquote(parts.path).rstrip("/")
    return f"{parts.scheme}://{place}{path}{'?' if query else ''}{query}"


def _tokens(text: str) -> list[str]:
    text = _THOUSANDS.sub("", unicodedata.normalize("NFC", text).casefold())
    text = text.replace("'s ", " ").replace("’s ", " ")
    return [number(token) or token for token in _TOKEN.findall(text)] or text.split()


def _without(tokens: list[str], dropped: frozenset[str]) -> list[str]:
    """`tokens` less those `dropped`, unless nothing would remain: "A" may be the answer."""
    return [token for token in tokens if token not in dropped] or tokens
