"""Profiling statistics, the choice of pivots, and the profile on disk."""

from pivotrl_jax.pivots.aside import judged_aside, verdict_thread
from pivotrl_jax.pivots.judging import (
    Checked,
    Grading,
    Judged,
    Judging,
    Truncated,
    judge,
    reward,
    sample_records,
    verify,
)
from pivotrl_jax.pivots.mixing import KINDS, Caps, cap, kind, mixed_batch, places_of
from pivotrl_jax.pivots.online import (
    OnlineSettings,
    OnlineState,
    choose,
    observe,
    start,
    summary,
)
from pivotrl_jax.pivots.reprofile import Profile, ReprofileSettings, due, profiles
from pivotrl_jax.pivots.rollouts import Rollouts, Row, Turn, joined, plan, rollouts
from pivotrl_jax.pivots.selection import SelectionSettings, audit, nothing_selected, select
from pivotrl_jax.pivots.statistics import (
    GroupStatistics,
    candidate_table,
    group_statistics,
    wilson,
)
from pivotrl_jax.pivots.store import SCHEMA, ProfileStore, read_samples

__all__ = [
    "KINDS",
    "SCHEMA",
    "Caps",
    "Checked",
    "Grading",
    "GroupStatistics",
    "Judged",
    "Judging",
    "OnlineSettings",
    "OnlineState",
    "Profile",
    "ProfileStore",
    "ReprofileSettings",
    "Rollouts",
    "Row",
    "SelectionSettings",
    "Truncated",
    "Turn",
    "audit",
    "candidate_table",
    "cap",
    "choose",
    "due",
    "group_statistics",
    "joined",
    "judge",
    "judged_aside",
    "kind",
    "mixed_batch",
    "nothing_selected",
    "observe",
    "places_of",
    "plan",
    "profiles",
    "read_samples",
    "reward",
    "rollouts",
    "sample_records",
    "select",
    "start",
    "summary",
    "verdict_thread",
    "verify",
    "wilson",
]
