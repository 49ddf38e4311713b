"""A default recipe for every verifier: what counts as the same action."""

from collections.abc import Mapping
from types import MappingProxyType

from pivotrl_jax.verifiers.recipe import Recipe

# Lenient. Between the paper's SWE verifier (tool name only, which one bash tool makes empty) and
# equivalence proper: the same program and sub-command on the same files, or the same command up to
# quoting, flag order and viewers. What is searched for or written, with which flags, or which lines
# are read is left open; thresholds on `pattern`, `content`, `flags` and `range` ask for that too.
SAME_TARGET = Recipe(
    "same_program_and_files",
    accept=(("program", 1.0), ("subcommand", 1.0), ("targets", 0.75), ("similarity", 0.5)),
    alternatively=(("exact", 1.0),),
)

# One-line commands are their flags: `find -size 0` and `find -mtime 0` share program and files, and
# 24 of 28 pairs of similarity 0.8 and more that were read did different things.
SAME_COMMAND = Recipe("same_command", accept=(("exact", 1.0),))

# `tables` keeps out constants that happen to be right (`SELECT 3` for a count) and leaves open
# whether a join takes a detour; the same text is right even if the copy cannot run it.
SAME_RESULT = Recipe(
    "same_result",
    accept=(("result", 1.0), ("tables", 0.5)),
    alternatively=(("exact", 1.0),),
)

# The expert's calls, no more and no fewer. A message turn needs as many common words as answers to
# the same turn usually have, and half of the facts.
SAME_CALL = Recipe(
    "same_call",
    accept=(
        ("well_formed", 1.0), ("kind", 1.0), ("name", 1.0), ("schema", 1.0), ("required", 1.0),
        ("arguments", 1.0), ("values", 1.0), ("similarity", 0.35), ("facts", 0.5),
    ),
)  # fmt: skip

# The same files with the same content; `similarity` 0.9 instead of `content` is the lenient one.
# `similarity` 0.35 and `facts` are for messages, as above.
SAME_FILES = Recipe(
    "same_files",
    accept=(
        ("well_formed", 1.0), ("kind", 1.0), ("target", 1.0), ("content", 1.0), ("range", 0.8),
        ("command", 1.0), ("values", 1.0), ("similarity", 0.35), ("facts", 0.5),
    ),
)  # fmt: skip

# `words` is what an ablation would sweep.
SAME_SEARCH = Recipe(
    "same_search",
    accept=(
        ("well_formed", 1.0), ("kind", 1.0), ("name", 1.0), ("target", 0.8), ("words", 0.6),
        ("covered", 0.85), ("asked", 1.0), ("answer", 1.0), ("values", 1.0),
    ),
)  # fmt: skip

# Commands that differ in one flag, operator or word of a script seldom do the same.
SAME_KEYSTROKES = Recipe("same_keystrokes", accept=(("exact", 1.0),))

SAME_PROGRESS = Recipe("same_progress", accept=(("progress", 1.0),))

SAME_TOOL = Recipe("same_tool", accept=(("name", 1.0),))

# For the verifiers that give upstream's reward.
UPSTREAM = Recipe("upstream", graded="reward")

DEFAULT: Mapping[str, Recipe] = MappingProxyType(
    {
        "command": SAME_COMMAND,
        "edit": SAME_FILES,
        "search": SAME_SEARCH,
        "sql": SAME_RESULT,
        "terminal": SAME_KEYSTROKES,
        "textworld": SAME_PROGRESS,
        "tool_call": SAME_CALL,
        "tool_name": SAME_TOOL,
    }
)
