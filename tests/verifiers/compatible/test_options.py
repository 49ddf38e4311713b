import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible import multi_harness, swe_pivot, terminus, tool_args
from pivotrl_jax.verifiers.compatible.options import read_options


def test_options_replace_the_defaults() -> None:
    given = {"word_count_similarity_threshold": 0, "allow_subset": True}
    expected = tool_args.Options(word_count_similarity_threshold=0, allow_subset=True)
    assert read_options(tool_args.Options(), given) == expected


def test_options_may_stand_under_the_key_of_upstreams_servers() -> None:
    given = {"tool_call_comparator_config": {"word_count_similarity_threshold": 0.3}}
    assert read_options(tool_args.Options(), given).word_count_similarity_threshold == 0.3


@pytest.mark.parametrize(
    ("defaults", "name"),
    [
        (multi_harness.Options(), "word_count_similarity_threshold"),
        (multi_harness.Options(), "ignored_argument_keys_by_tool"),
        (terminus.Options(), "judge_responses_create_params"),
    ],
)
def test_upstreams_names_that_decide_nothing_are_read_over(defaults: object, name: str) -> None:
    assert read_options(defaults, {name: {"any": 1}}) == defaults
    with pytest.raises(UserError, match="no option"):
        read_options(defaults, {f"_{name}": 1})


@pytest.mark.parametrize(
    ("defaults", "given", "message"),
    [
        (tool_args.Options(), {"allow_subst": True}, "did you mean 'allow_subset'"),
        (tool_args.Options(), {"allow_subset": 1}, "allow_subset is '1': give a bool"),
        (tool_args.Options(), {"parallel_tool_call_reward_mode": "f2"}, "use one of binary_strict"),
        (swe_pivot.Options(), {"reward_mode": "graded"}, "use one of binary, continuous"),
        (swe_pivot.Options(), {"reward_mode": ["binary"]}, "use one of binary, continuous"),
        (swe_pivot.Options(), {"similarity_threshold": True}, "give a float"),
        (swe_pivot.Options(), {"similarity_threshold": "0.4"}, "give a float"),
        (swe_pivot.Options(), {"similarity_threshold": float("nan")}, "give a float"),
        (terminus.Options(), {"judge_equal_label": 5}, "give a str"),
        (terminus.Options(), [], "config is not an object"),
        (terminus.Options(), None, "config is not an object"),
    ],
)  # fmt: skip
def test_bad_options_are_named(defaults: object, given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_options(defaults, given)
