"""The statements' own closed forms against what the objective gave."""

import json
import sys
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest

from experiments import theory
from pivotrl_jax.objectives import PolicySettings


@pytest.fixture(scope="module")
def found() -> dict:
    return theory.measure()


def test_no_statement_is_missed(found):
    misses = theory.misses(found)
    assert len(misses) == 7
    assert max(misses.values()) < 1e-5
    # Equal rewards leave no gradient at all, not a small one.
    assert next(iter(misses.values())) == 0


def test_the_norm_of_a_mixed_group(found):
    share = np.arange(17) / 16
    mean, std = (found["by_successes"][name] for name in ("mean", "std"))
    np.testing.assert_allclose(mean, np.sqrt(share * (1 - share)), atol=1e-6)
    np.testing.assert_allclose(std, (share > 0) & (share < 1), atol=1e-5)


def test_the_random_policies_differ(found):
    """Otherwise the dots would say little."""
    variances = found["by_variance"]["variance"]
    assert len(variances) == 60
    assert min(variances) < 0.01 < 0.24 < max(variances)


def test_only_the_kl_pulls_where_rewards_are_equal():
    logits, ref = np.log(theory.PI_0), np.zeros(5)
    assert not np.any(theory.gradient(logits, np.ones(5)))
    pull_V = theory.gradient(logits, np.ones(5), "mean", PolicySettings(kl_coef=0.5), ref)
    kl = lambda z: jax.nn.softmax(z) @ (jax.nn.log_softmax(z) + np.log(5))  # noqa: E731
    np.testing.assert_allclose(pull_V, -0.5 * jax.grad(kl)(logits), atol=1e-6)


@pytest.mark.parametrize("end", range(len(theory.BETAS)))
def test_the_functional_reward_keeps_every_order(found, end):
    functional = found["ends"]["functional"][end]
    assert functional["orders_kept"] == 1
    rho, q = theory.PI_0[:2].sum(), functional["accepted"]
    assert q > rho
    nearest = q * np.log(q / rho) + (1 - q) * np.log((1 - q) / (1 - rho))
    np.testing.assert_allclose(functional["kl"], nearest, rtol=1e-4)


def test_strict_match_overturns_the_order(found):
    """And leaves less mass on acceptable actions than the functional reward."""
    strict, functional = (found["ends"][name][0] for name in ("strict", "functional"))
    assert strict["orders_kept"] < 1
    assert strict["alternative_over_expert"] < 1 < functional["alternative_over_expert"]
    assert strict["accepted"] < functional["accepted"]


def test_training_has_arrived(found):
    """Its last steps move nothing, and its first ones do."""
    for pis in map(np.array, found["training"].values()):
        np.testing.assert_allclose(pis.sum(axis=1), 1, atol=1e-6)
        assert abs(pis[-1] - pis[-2]).max() < 1e-6 < abs(pis[1] - pis[0]).max()


def test_the_command_leaves_page_and_numbers(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(theory, "measure", lambda: found)
    monkeypatch.setattr(sys, "argv", ["theory", f"--out={tmp_path / 'out'}"])
    theory.main()
    numbers = json.loads((tmp_path / "out/theory.json").read_text())
    assert numbers["ends"] == found["ends"]
    page = (tmp_path / "out/theory.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    charts = page.split("<svg")[1:]
    assert len(charts) == 6
    for chart in charts:
        ET.fromstring("<svg" + chart.split("</svg>")[0] + "</svg>")
    assert "Theorem 3.3" in capsys.readouterr().out
