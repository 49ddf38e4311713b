"""Calls that do no more than run a shell command."""

import shlex

from pivotrl_jax.trajectories.schema import ToolCall

# Tools of agent harnesses that run one shell command; under any other name the same argument may
# mean something else, such as what an editor is to do.
SHELLS = frozenset(
    {"bash", "sh", "shell", "terminal", "execute_bash", "run_bash", "exec_command", "run_command",
     "run_shell_command", "execute_command", "local_shell", "shell_command", "code_exec"}
)  # fmt: skip
# Arguments that change how long a command may take or what is said of it, not what it does.
INCIDENTAL = frozenset(
    {"timeout", "timeout_ms", "timeout_sec", "yield_time_ms", "max_output_tokens", "description",
     "security_risk", "thought", "explanation"}
)  # fmt: skip
_PLACES = ("workdir", "cwd")


def shell_text(call: ToolCall, arguments: tuple[str, ...]) -> str | None:
    """What a call runs whose only argument that counts is the text in one of `arguments`.

    A working directory that it names is a `cd` before the rest; None for any other call.
    """
    if not isinstance(call.arguments, dict):
        return None
    counting = {name: v for name, v in call.arguments.items() if name not in INCIDENTAL}
    if counting.get("is_input") in (False, "false"):  # OpenHands' way to say: a new command
        del counting["is_input"]
    places = [counting.pop(name) for name in _PLACES if isinstance(counting.get(name), str)]
    texts = [counting.pop(name) for name in arguments if isinstance(counting.get(name), str)]
    if counting or len(texts) != 1:
        return None
    return "".join(f"cd {shlex.quote(place)}\n" for place in places) + texts[0]


def interchangeable(a: ToolCall, b: ToolCall) -> bool:
    """Whether the tools of two shell calls do the same: one tool, or two known shells."""
    return a.name == b.name or {a.name, b.name} <= SHELLS
