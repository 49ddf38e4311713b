"""Tunix's GRPO learner on one job, with its own sampler; runs in Tunix's own environment.

python tunix_worker.py JOB.json RESULT.json
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from transformers import AutoTokenizer
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as weights
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig

MULTIPLE = 256  # prompts are padded to the longest, in steps of this


class Clock:
    """When every step's generation began and how long it took."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.sampling: list[float] = []
        self.lengths: list[int] = []

    def timed(self, generate: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.began.append(time.perf_counter())
            out = jax.block_until_ready(generate(*args, **kwargs))
            self.sampling.append(time.perf_counter() - self.began[-1])
            self.lengths = [len(tokens) for tokens in out.tokens]
            return out

        return call

    def updates(self, ended: float) -> list[float]:
        """What remains of every step beside generation."""
        return list(np.diff([*self.began, ended]) - self.sampling)


def reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Every other sample is a success: what is learnt does not matter here."""
    return [float(i % 2) for i in range(len(completions))]


def policy(directory: str, mesh: jax.sharding.Mesh) -> llama.Llama3:
    read = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    config = llama.ModelConfig(
        num_layers=read["num_hidden_layers"],
        vocab_size=read["vocab_size"],
        embed_dim=read["hidden_size"],
        hidden_dim=read["intermediate_size"],
        num_heads=read["num_attention_heads"],
        head_dim=read["head_dim"],
        num_kv_heads=read["num_key_value_heads"],
        rope_theta=int(read["rope_theta"]),
        norm_eps=read["rms_norm_eps"],
        weight_tying=read["tie_word_embeddings"],
    )
    return weights.create_model_from_safe_tensors(directory, config, mesh)


def cluster_config(
    job: Mapping[str, Any], mesh: jax.sharding.Mesh, prompt_tokens: int, eot: int
) -> rl_cluster.ClusterConfig:
    """One step takes all pivots; a micro-batch is the group of one."""
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    pivots = len(job["prompts"])
    return rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh),
        rollout_engine="vanilla",
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optax.adamw(job["learning_rate"]),
            eval_every_n_steps=10**6,
            max_steps=job["steps"],
            mini_batch_size=pivots,
            train_micro_batch_size=1,
            rollout_micro_batch_size=pivots,
            compute_logps_micro_batch_size=1,
        ),
        rollout_config=RolloutConfig(
            max_prompt_length=prompt_tokens,
            max_tokens_to_generate=job["max_tokens"],
            kv_cache_size=prompt_tokens + job["max_tokens"] + 1,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
            eos_tokens=[eot],
        ),
    )


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    lengths = [len(tokenizer(text)["input_ids"]) for text in job["prompts"]]
    longest = -(-max(lengths) // MULTIPLE) * MULTIPLE
    clock = Clock()
    with mesh:
        cluster = rl_cluster.RLCluster(
            actor=policy(job["model"], mesh),
            tokenizer=tokenizer,
            cluster_config=cluster_config(job, mesh, longest, tokenizer.eos_token_id),
        )
        cluster.generate = clock.timed(cluster.generate)
        config = GRPOConfig(num_generations=job["samples"], num_iterations=1, beta=0.0)
        learner = GRPOLearner(rl_cluster=cluster, reward_fns=reward, algo_config=config)
        learner.train([{"prompts": np.array(job["prompts"])}] * job["steps"])
    updates = clock.updates(time.perf_counter())
    return {
        "seconds_sampling": clock.sampling[1:],
        "seconds_update": updates[1:],
        "prompt_tokens": sum(lengths),
        "action_tokens": float(np.mean(clock.lengths)),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "version": version("google-tunix"),
    }


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_DATA, (asked["memory_bytes"],) * 2)
    found = measure(asked)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
