"""Expert trajectories: reading and writing files, turns that may be trained on, splits."""

from pivotrl_jax.trajectories.fold import Sharing, fold
from pivotrl_jax.trajectories.formats import FORMATS
from pivotrl_jax.trajectories.leaks import check_leaks, join_tasks
from pivotrl_jax.trajectories.nemo_gym_rows import RowSettings, write_nemo_gym
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
from pivotrl_jax.trajectories.splits import Split, check_disjoint, group, split
from pivotrl_jax.trajectories.tools import BASH_TOOL, SQL_TOOL
from pivotrl_jax.trajectories.turns import EVERY_TURN, SWE_TURN, TurnRule, candidates
from pivotrl_jax.trajectories.writers import write_openai_chat

__all__ = [
    "BASH_TOOL",
    "EVERY_TURN",
    "FORMATS",
    "NO_CONTEXT",
    "SQL_TOOL",
    "SWE_TURN",
    "Action",
    "Candidate",
    "Context",
    "Message",
    "ReadAudit",
    "Rejected",
    "RowSettings",
    "Sharing",
    "Split",
    "ToolCall",
    "Trajectory",
    "TurnRule",
    "candidates",
    "check_disjoint",
    "check_leaks",
    "fold",
    "group",
    "join_tasks",
    "read",
    "rows",
    "split",
    "write_nemo_gym",
    "write_openai_chat",
]
