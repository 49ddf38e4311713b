"""The similarity that upstream takes from the standard library."""

import difflib


def ratio(first: str, second: str) -> float:
    """difflib's ratio with its default heuristic, and so not symmetric.

    Characters that make up more than 1 % of a `second` of 200 or more are no anchors: four
    characters inserted into 400 can halve the ratio. Callers keep upstream's order of arguments.
    """
    return difflib.SequenceMatcher(None, first, second).ratio()
