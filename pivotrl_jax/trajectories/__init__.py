"""Expert trajectories: reading and writing files, turns that may be trained on, splits."""

from pivotrl_jax.trajectories.coding import BASH_TOOL
from pivotrl_jax.trajectories.fold import Sharing, fold
from pivotrl_jax.trajectories.formats import FORMATS
from pivotrl_jax.trajectories.readers import ReadAudit, Rejected, read, rows
from pivotrl_jax.trajectories.schema import (
    NO_CONTEXT,
    Action,
    Candidate,
    Context,
    Message,
    ToolCall,
    Trajectory,
)
from pivotrl_jax.trajectories.splits import Split, check_disjoint, split
from pivotrl_jax.trajectories.turns import EVERY_TURN, SWE_TURN, TurnRule, candidates
from pivotrl_jax.trajectories.writers import write_openai_chat

__all__ = [
    "BASH_TOOL",
    "EVERY_TURN",
    "FORMATS",
    "NO_CONTEXT",
    "SWE_TURN",
    "Action",
    "Candidate",
    "Context",
    "Message",
    "ReadAudit",
    "Rejected",
    "Sharing",
    "Split",
    "ToolCall",
    "Trajectory",
    "TurnRule",
    "candidates",
    "check_disjoint",
    "fold",
    "read",
    "rows",
    "split",
    "write_openai_chat",
]
