"""The paper's three statements, drawn from the objective that trains.

    python -m experiments.theory --out=runs/theory

2 CPU cores, 10 seconds. Leaves theory.html, a page of figures, and theory.json, their numbers;
prints how far each statement is missed, which is by less than 1e-5 everywhere.

One state and a tabular softmax policy, whose logits are the parameters: with an identity as output
head they are hidden states, too, and go through `kernels.grpo` as a transformer's do. Every action
is a token that weighs as much as the policy draws it, so that the loss is an exact expectation.
"""

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from experiments.artifacts import write_json
from experiments.reports import page as report_page
from experiments.theory_figures import figures
from kernels.grpo import AdvantageSettings, Groups, ScoredTokens, grpo
from pivotrl_jax.objectives import Normalisation, PolicySettings

Vector = Float[Array, "V"]

NO_KL = PolicySettings()

SEED = 0
ACTIONS = 16
BETAS = (0.3, 1.0, 3.0)
# Theorem 3.3's state: the expert's action is acceptable, and so is one that pi_0 prefers to it.
NAMES = ("expert", "also valid", "not valid", "not valid", "not valid")
PI_0 = np.array([0.15, 0.25, 0.3, 0.2, 0.1])
REWARDS = {
    "functional": np.array([1.0, 1.0, 0.0, 0.0, 0.0]),
    "strict": np.array([1.0, 0.0, 0.0, 0.0, 0.0]),
}
ACCEPTED = REWARDS["functional"] > 0
STEPS, STEP = 30, 0.4


@functools.partial(jax.jit, static_argnames=("normalisation", "policy"))
def gradient(
    logits: Vector,
    reward_V: Vector,
    normalisation: Normalisation = "mean",
    policy: PolicySettings = NO_KL,
    ref_logits: Vector | None = None,
) -> Vector:
    """Of minus the expected loss of the policy's own actions, a group with each of them once."""
    count = logits.size
    logp_V = jax.nn.log_softmax(logits)
    tokens = ScoredTokens(
        labels_RA=jnp.arange(count)[None],
        weight_RA=jnp.exp(logp_V)[None],
        sample_RA=jnp.arange(count)[None],
        old_logp_RA=logp_V[None],
        ref_logp_RA=None if ref_logits is None else jax.nn.log_softmax(ref_logits)[None],
    )
    groups = Groups(
        reward_V[None, None], jnp.ones((1, 1, count), bool), jnp.zeros((1, 1, count), bool)
    )

    def gain(logits: Vector) -> Array:
        hidden_RAD = jnp.broadcast_to(logits, (1, count, count))
        loss, _ = grpo(
            hidden_RAD, jnp.eye(count), tokens, groups, jnp.float32(1), policy,
            AdvantageSettings(normalisation, std_epsilon=0.0),
        )  # fmt: skip
        return -loss

    return jax.grad(gain)(logits)


def natural_norm(gradient_V: Vector, logits: ArrayLike) -> float:
    """sqrt(n F n), where F n = g, of a softmax's logits: g sums to 0, and n is g / pi."""
    return float(jnp.sqrt(jnp.sum(jnp.square(gradient_V) / jax.nn.softmax(logits))))


def variance(reward_V: ArrayLike, logits: ArrayLike) -> float:
    """Of the reward under the policy."""
    pi_V = np.asarray(jax.nn.softmax(logits))
    return float(pi_V @ np.square(reward_V - pi_V @ np.asarray(reward_V)))


def by_successes() -> dict[str, list[float]]:
    """A group of equally likely actions, of which 0, 1, ... succeed."""
    logits = np.zeros(ACTIONS)
    rewards = [np.float64(np.arange(ACTIONS) < k) for k in range(ACTIONS + 1)]
    norms = {
        how: [natural_norm(gradient(logits, r, how), logits) for r in rewards]
        for how in ("mean", "std")
    }
    return norms | {"variance": [variance(reward_V, logits) for reward_V in rewards]}


def by_variance(cases: int = 60) -> dict[str, list[float]]:
    """Random policies with random rewards, half of them binary."""
    rng = np.random.default_rng(SEED)
    found: dict[str, list[float]] = {"variance": [], "norm": []}
    for case in range(cases):
        logits, reward_V = rng.normal(size=ACTIONS), rng.random(ACTIONS)
        reward_V = np.round(reward_V) if case % 2 else reward_V * rng.random()
        found["variance"].append(variance(reward_V, logits))
        found["norm"].append(natural_norm(gradient(logits, reward_V), logits))
    return found


def along_path() -> dict[str, list[float]]:
    """The path pi_0 exp(r / beta): how fast it is, and what the objective's gradient says."""
    rng = np.random.default_rng(SEED)
    logits, reward_V = rng.normal(size=ACTIONS), rng.random(ACTIONS)

    def path(beta: ArrayLike) -> Array:
        return jnp.asarray(logits) + reward_V / beta

    found: dict[str, list[float]] = {"beta": [], "speed": [], "norm": []}
    for beta in np.linspace(0.4, 3.0, 27):
        logp_V, speed_V = jax.jvp(
            lambda b: jax.nn.log_softmax(path(b)), (jnp.float32(beta),), (jnp.float32(1),)
        )
        found["beta"].append(float(beta))
        found["speed"].append(float(jnp.sqrt(jnp.sum(jnp.exp(logp_V) * jnp.square(speed_V)))))
        norm = natural_norm(gradient(path(beta), reward_V), path(beta))
        found["norm"].append(norm / beta**2)
    return found


def trained(reward_V: np.ndarray, beta: float) -> Float[np.ndarray, "steps V"]:
    """Probabilities of the actions, from pi_0 on over STEPS natural-gradient steps."""
    start = logits = jnp.log(PI_0)
    policy = PolicySettings(kl_coef=beta, kl_estimator="k2")
    pis = [PI_0]
    for _ in range(STEPS):
        natural_V = gradient(logits, reward_V, "mean", policy, start) / jax.nn.softmax(logits)
        # A step of 1 / beta would be at the optimum at once.
        logits = logits + STEP / beta * natural_V
        pis.append(np.asarray(jax.nn.softmax(logits), np.float64))
    return np.stack(pis)


def ends(rewards: str, beta: float) -> dict[str, float]:
    """Where training with these rewards ends."""
    pi_V = trained(REWARDS[rewards], beta)[-1]
    rho = PI_0[ACCEPTED].sum()
    return {
        "beta": beta,
        "accepted": float(pi_V[ACCEPTED].sum()),
        "accepted_predicted": float(rho / (rho + (1 - rho) * np.exp(-1 / beta))),
        "kl": float(pi_V @ np.log(pi_V / PI_0)),
        "alternative_over_expert": float(pi_V[1] / pi_V[0]),
        "orders_kept": orders_kept(pi_V),
    }


def orders_kept(pi_V: np.ndarray) -> float:
    """The share of pairs within or without the acceptable set whose order is that of pi_0."""
    first, second = np.triu_indices(len(PI_0), 1)
    same = ACCEPTED[first] == ACCEPTED[second]
    kept = (pi_V[first] > pi_V[second]) == (PI_0[first] > PI_0[second])
    return float(kept[same].mean())


def measure() -> dict[str, Any]:
    """Every number of the page."""
    return {
        "by_successes": by_successes(),
        "by_variance": by_variance(),
        "along_path": along_path(),
        "training": {
            name: trained(reward_V, BETAS[0]).tolist() for name, reward_V in REWARDS.items()
        },
        "ends": {name: [ends(name, beta) for beta in BETAS] for name in REWARDS},
    }


def misses(found: Mapping[str, Any]) -> dict[str, float]:
    """The largest distance from each statement."""
    mean = np.array(found["by_successes"]["mean"])
    groups, random, path = (found[of] for of in ("by_successes", "by_variance", "along_path"))
    functional, strict = found["ends"]["functional"], found["ends"]["strict"]
    odds = PI_0[1] / PI_0[0]
    return {
        "Proposition 3.1: no gradient where all succeed or all fail": float(mean[[0, -1]].max()),
        "Theorem 3.2: natural norm = √Var r, groups": _apart(mean, np.sqrt(groups["variance"])),
        "Theorem 3.2: natural norm = √Var r, random policies": _apart(
            random["norm"], np.sqrt(random["variance"])
        ),
        "Theorem 3.2: natural norm / β² = speed of the path": _apart(path["norm"], path["speed"]),
        "Theorem 3.3: mass of the acceptable actions": max(
            abs(end["accepted"] - end["accepted_predicted"]) for end in functional
        ),
        "Theorem 3.3: alternative over expert stays": max(
            abs(end["alternative_over_expert"] - odds) for end in functional
        ),
        "Strict match: alternative over expert falls by exp(1/β)": max(
            abs(end["alternative_over_expert"] - odds * np.exp(-1 / end["beta"])) for end in strict
        ),
    }


def _apart(ours: ArrayLike, theirs: ArrayLike) -> float:
    return float(np.abs(np.subtract(ours, theirs)).max())


def page(found: Mapping[str, Any]) -> str:
    return report_page.page("theory.html.j2", figures=figures(found, NAMES), misses=misses(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.theory", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for page and numbers")
    directory = parser.parse_args().out
    found = measure()
    write_json(directory / "theory.json", found | {"misses": misses(found)})
    (directory / "theory.html").write_text(page(found), encoding="utf-8")
    for statement, miss in misses(found).items():
        print(f"{miss:.1e}  {statement}")
    print(directory / "theory.html")


if __name__ == "__main__":
    main()
