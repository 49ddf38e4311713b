"""What an episode is worth to its group, and what a step tells of its episodes."""

import numpy as np
import pytest

from pivotrl_jax.environments import Ending, Move, Played, Task
from pivotrl_jax.errors import UserError
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.training import EndToEndSettings
from pivotrl_jax.training.end_to_end import episode_metrics, outcomes

TASK = Task("task", "group", "train")


def move(start: int, end: int, malformed: bool = False, valid: bool = True) -> Move:
    logp = np.zeros(end - start, np.float32)
    return Move(start, end, logp, logp, malformed, valid, "")


def played(length: int, moves: list[Move], score: float, ending: Ending) -> Played:
    return Played(TASK, 0, np.zeros(length, np.int32), tuple(moves), (), score, ending)


ONE_OF_EACH = [
    played(12, [move(3, 5), move(7, 12, valid=False)], 1.0, "done"),
    played(9, [move(3, 5, malformed=True, valid=False), move(5, 9)], 0.5, "truncated"),
    played(3, [], 0.0, "tokens"),
    played(8, [move(4, 8)], 0.75, "turns"),
]


@pytest.mark.parametrize(
    ("unfinished", "rewards", "valid"),
    [
        ("mask", [1, 0.5, 0, 0.75], [True, False, False, False]),
        ("score", [1, 0.5, 0, 0.75], [True] * 4),
        ("fail", [1, 0, 0, 0], [True] * 4),
    ],
)
def test_what_an_unfinished_episode_is_worth(unfinished, rewards, valid):
    rewards_PK, valid_PK, malformed_PK = outcomes([ONE_OF_EACH, ONE_OF_EACH[::-1]], unfinished)
    assert valid_PK.tolist() == [valid, valid[::-1]]
    assert rewards_PK[valid_PK].tolist() == np.array([rewards, rewards[::-1]])[valid_PK].tolist()
    assert malformed_PK.tolist() == [[False, True, False, False], [False, False, True, False]]


def test_metrics_are_of_all_episodes():
    found = episode_metrics(ONE_OF_EACH)
    assert found == {
        "ending/done": 0.25,
        "ending/turns": 0.25,
        "ending/tokens": 0.25,
        "ending/truncated": 0.25,
        "score_mean": 0.5625,
        "episode_turns": 1.25,
        "episode_tokens": 8.0,
        "rollout_turns": 5,
        "sampled_tokens": 17,
        "prefill_tokens": 4 + (2 + 0 + 0),  # one opening, and what was said between two actions
        "malformed_share": 0.2,
        "invalid_share": 0.4,
    }


def test_sampling_that_truncates_is_refused():
    with pytest.raises(UserError, match=r"end_to_end\.sampling must not truncate"):
        EndToEndSettings(sampling=SamplingSettings(top_p=0.9))
    with pytest.raises(UserError, match="did you mean 'mask'"):
        EndToEndSettings(unfinished="masked")
