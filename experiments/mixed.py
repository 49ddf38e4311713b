"""PivotRL on four domains at once: terminal, web search, interactive SQL and tool use.

    python -m experiments.run --config=experiments/mixed.py            # :laptop
    python -m experiments.run --config=experiments/mixed.py:smoke
    python -m experiments.run --config=experiments/mixed.py --config.others.sql.weight=2

What the domains have in common comes from the first one: the model, the batch, the sampling. Each
has its own data, text format, verifier, selection and share of the batches. The fields of the first
one, terminal, are config.data, config.reward, ...; those of sql are config.others.sql.data, ...

preset   hardware                    time        what comes out
smoke    2 CPU cores, 8 GiB          4 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 12 GiB         not timed   figures by domain, for tasks never trained on
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses

import ml_collections

from experiments import presets, search, sql, terminal, tool_use
from experiments.settings import Settings

replace = dataclasses.replace

DOMAINS = {"terminal": terminal, "search": search, "sql": sql, "tool_use": tool_use}


def mixed(preset: str) -> Settings:
    return presets.mixed("mixed", {name: own.PRESETS[preset]() for name, own in DOMAINS.items()})


def laptop() -> Settings:
    """A part of what each domain's own run reads, and a row of each domain in every step."""
    base = mixed("laptop")
    limits = {"search": 40, "sql": 60, "tool_use": 20}
    others = {
        name: replace(own, data=replace(own.data, limit=limits[name]))
        for name, own in base.others.items()
    }
    return replace(
        base,
        data=replace(base.data, limit=80),
        others=others,
        train=replace(base.train, rows=4, pivots_per_row=2),
    )


def smoke() -> Settings:
    """The smoke runs of all domains."""
    base = mixed("smoke")
    return replace(base, train=replace(base.train, rows=4))


def host() -> Settings:
    return mixed("host")


def pod() -> Settings:
    return mixed("pod")


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)
