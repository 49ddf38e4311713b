"""The label in which a judge's answer ends."""

EQUAL = "[[A=B]]"
NOT_EQUAL = "[[A!=B]]"

_TAIL = 200  # characters


def parse_label(text: str, equal: str = EQUAL, not_equal: str = NOT_EQUAL) -> bool | None:
    """Whether `text` calls the two answers equal; None where it holds no label.

    The rightmost label of the last 200 characters counts, because that is where a judge concludes;
    without one there, the first label of the whole text.
    """
    tail = text[-_TAIL:]
    last_equal, last_not_equal = tail.rfind(equal), tail.rfind(not_equal)
    if last_equal != last_not_equal:
        return last_equal > last_not_equal
    first_equal, first_not_equal = text.find(equal), text.find(not_equal)
    if first_equal == first_not_equal:
        return None
    return first_not_equal < 0 or 0 <= first_equal < first_not_equal
