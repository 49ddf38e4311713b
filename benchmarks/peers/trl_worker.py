"""TRL's GRPOTrainer on one job, with transformers' `generate`; runs in TRL's own environment.

python trl_worker.py JOB.json RESULT.json
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    """Seconds of every optimiser step, and of the generation within it."""

    def __init__(self) -> None:
        self.sampling: list[float] = []
        self.update: list[float] = []
        self.lengths: list[int] = []
        self._generating = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began, self._generating = time.perf_counter(), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        whole = time.perf_counter() - self._began
        self.sampling.append(self._generating)
        self.update.append(whole - self._generating)

    def timed(self, generate: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            out = generate(*args, **kwargs)
            self._generating += time.perf_counter() - began
            return out

        return call

    def reward(self, completion_ids: list, **_: Any) -> list[float]:
        """Every other sample is a success: what is learnt does not matter here."""
        self.lengths = [len(ids) for ids in completion_ids]
        return [float(i % 2) for i in range(len(completion_ids))]


def config(job: Mapping[str, Any], directory: str) -> GRPOConfig:
    """One step takes all pivots; a micro-batch is the group of one. No KL, float32."""
    return GRPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=job["samples"],
        gradient_accumulation_steps=len(job["prompts"]),
        num_generations=job["samples"],
        max_completion_length=job["max_tokens"],
        temperature=1.0,
        beta=0.0,
        learning_rate=job["learning_rate"],
        max_steps=job["steps"],
        shuffle_dataset=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def measure(job: Mapping[str, Any], directory: str) -> dict[str, Any]:
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    clock = Clock()
    model.generate = clock.timed(model.generate)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=clock.reward,
        args=config(job, directory),
        train_dataset=Dataset.from_list([{"prompt": text} for text in job["prompts"]]),
        callbacks=[clock],
    )
    trainer.train()
    return {
        "seconds_sampling": clock.sampling[1:],
        "seconds_update": clock.update[1:],
        "prompt_tokens": sum(len(tokenizer(text)["input_ids"]) for text in job["prompts"]),
        "action_tokens": sum(clock.lengths) / len(clock.lengths),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "version": version("trl"),
    }


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_DATA, (asked["memory_bytes"],) * 2)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(asked, scratch)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
