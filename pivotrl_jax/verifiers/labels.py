"""The verdict labels of an LLM judge."""

EQUAL, DIFFERENT = "[[A=B]]", "[[A!=B]]"
_TAIL = 200  # characters


def parse_label(text: str) -> bool | None:
    """Whether a judge's reply calls its two answers equal; None where it has no label.

    The rightmost label of the last 200 characters decides, or else the first of the whole text
    (NeMo Gym's terminus judge).
    """
    tail = text[-_TAIL:]
    last = max(EQUAL, DIFFERENT, key=tail.rfind)
    if last in tail:
        return last == EQUAL
    found = [label for label in (EQUAL, DIFFERENT) if label in text]
    return min(found, key=text.find) == EQUAL if found else None
