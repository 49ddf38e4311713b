"""Pivot rows that were cut from one trajectory, folded back into it."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pivotrl_jax.trajectories.digests import action_digest, digest, json_digest
from pivotrl_jax.trajectories.schema import Facts, Message, Trajectory


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What folding achieved: messages of all rows, and of the trajectories that hold them.

    `repeated` rows had the history and the action of another one of the same trajectory and are
    left out.
    """

    rows: int
    trajectories: int
    repeated: int
    row_messages: int
    kept_messages: int


@dataclasses.dataclass
class _Node:
    parent: int
    depth: int
    message: Message


@dataclasses.dataclass
class _Row:
    index: int
    history: int
    stated: Trajectory


class _Trie:
    """Histories as paths: each message is stored once for all rows that begin alike."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self._children: dict[tuple[int, bytes], int] = {}
        self._actions: dict[tuple[int, bytes], int] = {}
        self._roots: dict[bytes, int] = {}

    def root(self, row: Trajectory) -> int:
        """Rows of another task or trajectory, or with other tools, stay apart, even if alike."""
        key = json_digest([row.task_id, row.domain, list(row.tools), _trajectory(row)])
        # Negative, so that no node has it.
        return self._roots.setdefault(key, -1 - len(self._roots))

    def step(self, parent: int, message: Message) -> int:
        key = (parent, digest(message))
        if key not in self._children:
            self._children[key] = self._new(parent, message)
        return self._children[key]

    def action(self, parent: int, expert: Message) -> int:
        """The turn after `parent` that does what `expert` does, if any history has it.

        Its reasoning may differ, for a pivot row never holds that of its own turn, and a row that
        states calls only may stem from a turn with text beside them.
        """
        found = self._actions.get((parent, action_digest(expert)))
        return self._new(parent, expert) if found is None else found

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, without the root."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def _new(self, parent: int, message: Message) -> int:
        node = len(self.nodes)
        depth = self.nodes[parent].depth + 1 if parent >= 0 else 0
        self.nodes.append(_Node(parent, depth, message))
        if message.role == "assistant":
            for each in (message, dataclasses.replace(message, content="")):
                if each.calls or each is message:
                    self._actions.setdefault((parent, action_digest(each)), node)
        return node


def fold(trajectories: Iterable[Trajectory]) -> tuple[list[Trajectory], Sharing]:
    """Trajectories with the pivot rows among them folded; in the order of their first rows.

    A pivot row is a trajectory whose one pivot is its last message. Rows whose history and action
    begin another row's history become further pivots of that one, each with its own facts; a
    history that rewrites earlier turns stays apart, and so do rows that state the ids of different
    trajectories. A folded trajectory is named by the
    `trajectory_id` of its rows where no other has it. Time and memory are linear in the text.
    """
    whole: list[tuple[int, Trajectory]] = []
    rows: list[_Row] = []
    trie = _Trie()
    row_messages = 0
    for index, each in enumerate(trajectories):
        if not _is_row(each):
            whole.append((index, each))
            continue
        row_messages += len(each.messages)
        history = trie.root(each)
        for message in each.messages[:-1]:
            history = trie.step(history, message)
        # The history is in the trie, so that only one copy of it stays in memory.
        stated = dataclasses.replace(each, messages=each.messages[-1:])
        rows.append(_Row(index, history, stated))
    folded, repeated = _trunks(trie, rows)
    sharing = Sharing(
        rows=len(rows),
        trajectories=len(folded),
        repeated=repeated,
        row_messages=row_messages,
        kept_messages=sum(len(each.messages) for _, each in folded),
    )
    # An index is that of a row, so no two are equal.
    return [each for _, each in sorted(whole + folded, key=lambda pair: pair[0])], sharing


def _trajectory(row: Trajectory) -> Any:
    """The trajectory that a row says it was cut from, if it does."""
    facts = _facts(row)
    metadata = facts.get("metadata")
    beside = metadata.get("source_trajectory_uid") if isinstance(metadata, dict) else None
    return facts.get("trajectory_id", beside)


def _is_row(trajectory: Trajectory) -> bool:
    return tuple(trajectory.pivots or ()) == (len(trajectory.messages) - 1,)


def _trunks(trie: _Trie, rows: Sequence[_Row]) -> tuple[list[tuple[int, Trajectory]], int]:
    """Each row's turn as a pivot of the longest path through it, and the count of repeated rows."""
    row_at: dict[int, _Row] = {}
    for row in rows:
        row_at.setdefault(trie.action(row.history, row.stated.messages[0]), row)
    claimed: set[int] = set()
    trunks: list[tuple[list[_Row], Trajectory]] = []
    for end in sorted(row_at, key=lambda node: (-trie.nodes[node].depth, row_at[node].index)):
        if end in claimed:
            continue
        path = trie.path(end)
        own = [node for node in path if node in row_at and node not in claimed]
        claimed.update(own)
        pivots = {trie.nodes[node].depth: _facts(row_at[node].stated) for node in own}
        messages = tuple(trie.nodes[node].message for node in path)
        trunk = dataclasses.replace(row_at[end].stated, messages=messages, pivots=pivots)
        trunks.append(([row_at[node] for node in own], trunk))
    folded = [(min(row.index for row in own), trunk) for own, trunk in trunks]
    return _named(folded), len(rows) - len(row_at)


def _facts(row: Trajectory) -> Facts:
    (facts,) = (row.pivots or {}).values()
    return facts


def _named(folded: list[tuple[int, Trajectory]]) -> list[tuple[int, Trajectory]]:
    names = {index: _name(trunk) for index, trunk in folded}
    count = Counter(names.values())
    return [
        (index, dataclasses.replace(trunk, id=names[index]) if count[names[index]] == 1 else trunk)
        for index, trunk in folded
    ]


def _name(trunk: Trajectory) -> str:
    """The one `trajectory_id` of all rows, else the id of the longest row."""
    names = {str(facts.get("trajectory_id", trunk.id)) for facts in (trunk.pivots or {}).values()}
    return names.pop() if len(names) == 1 else trunk.id
