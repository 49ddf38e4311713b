"""The commands of a game in words: TextWorld's own templates and others that mean the same."""

from collections.abc import Mapping
from types import MappingProxyType

_ARTICLES = frozenset({"the", "a", "an"})

# By the first word of TextWorld's command and the number of names; its own template comes first.
TEMPLATES: Mapping[tuple[str, int], tuple[str, ...]] = MappingProxyType(
    {
        ("go", 1): ("go {0}", "{0}", "{0[0]}", "walk {0}"),
        ("take", 1): ("take {0}", "get {0}", "pick up {0}", "grab {0}"),
        ("take", 2): (
            "take {0} from {1}", "take {0}", "get {0} from {1}", "get {0}",
            "pick up {0} from {1}", "pick up {0}", "grab {0} from {1}", "grab {0}",
        ),
        ("drop", 1): ("drop {0}", "put down {0}", "leave {0}"),
        ("insert", 2): (
            "insert {0} into {1}", "put {0} in {1}", "put {0} into {1}", "place {0} in {1}",
        ),
        ("put", 2): ("put {0} on {1}", "place {0} on {1}", "set {0} on {1}", "put {0} onto {1}"),
        ("open", 1): ("open {0}", "open up {0}"),
        ("close", 1): ("close {0}", "shut {0}"),
        ("unlock", 2): ("unlock {0} with {1}", "unlock {0}", "use {1} on {0}"),
        ("lock", 2): ("lock {0} with {1}", "lock {0}"),
        ("eat", 1): ("eat {0}", "eat up {0}"),
        ("look", 0): ("look", "look around"),
        ("inventory", 0): ("inventory", "i"),
    }
)  # fmt: skip


def wordings(verb: str, names: tuple[str, ...]) -> list[str]:
    """Every way to say it, TextWorld's own first."""
    return [template.format(*names) for template in TEMPLATES[verb, len(names)]]


def canonical(verb: str, names: tuple[str, ...]) -> str:
    """TextWorld's own command."""
    return wordings(verb, names)[0]


def normal(command: str) -> str:
    """A command without case, articles, closing stop and surplus blanks."""
    words = command.lower().strip().rstrip(".!").split()
    return " ".join(word for word in words if word not in _ARTICLES)
