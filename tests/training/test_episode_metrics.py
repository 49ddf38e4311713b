"""What an episode is worth to its group, and what a step tells of its episodes and rewards."""

import numpy as np
import pytest

from pivotrl_jax.environments import Ending, Move, Played, Task
from pivotrl_jax.errors import UserError
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.training import EndToEndSettings
from pivotrl_jax.training.end_to_end import episode_metrics, outcomes
from pivotrl_jax.training.pivotrl import reward_metrics, statistics_of

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
        "win_rate": 0.25,
        "episode_turns": 1.25,
        "episode_tokens": 8.0,
        "rollout_turns": 5,
        "sampled_tokens": 17,
        "prefill_tokens": 4 + (2 + 0 + 0),  # one opening, and what was said between two actions
        "malformed_share": 0.2,
        "invalid_share": 0.4,
    }


def test_deviations_of_a_batch_and_within_its_groups():
    """Two groups that agree with themselves, and not with each other; one that is mixed."""
    rewards_PK = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]], np.float32)
    valid_PK = np.array([[True, True, False], [True] * 3, [True] * 3, [True, False, False]])
    found = reward_metrics(rewards_PK, valid_PK, statistics_of(rewards_PK, valid_PK))
    assert found == {
        "reward_mean": pytest.approx(5 / 9),
        "reward_std": pytest.approx(np.sqrt(20) / 9),
        # The fourth group is one sample, and none in this.
        "group_std": pytest.approx(np.sqrt(2) / 9),
        "mixed_share": pytest.approx(1 / 3),
    }
    none_PK = np.zeros_like(valid_PK)
    nothing = reward_metrics(rewards_PK, none_PK, statistics_of(rewards_PK, none_PK))
    assert np.isnan([nothing["reward_mean"], nothing["group_std"], nothing["mixed_share"]]).all()


def test_sampling_that_truncates_is_refused():
    with pytest.raises(UserError, match=r"end_to_end\.sampling must not truncate"):
        EndToEndSettings(sampling=SamplingSettings(top_p=0.9))
    with pytest.raises(UserError, match="did you mean 'mask'"):
        EndToEndSettings(unfinished="masked")
