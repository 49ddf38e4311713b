"""Writes report.html, one self-contained page: `python -m experiments.report --workdir=DIR`."""

import argparse
import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments import (
    report_browser,
    report_domains,
    report_figures,
    report_page,
    report_play,
    report_reasons,
    report_sections,
    report_verdict,
)
from experiments.report_data import POLICIES, Artifacts, load
from experiments.report_markdown import markdown
from experiments.versions import in_words
from pivotrl_jax.errors import UserError


def write(workdir: Path) -> Path:
    """Write `workdir`/report.html from whatever stages are done and return its path.

    Raises UserError if `workdir` is not a work directory or one of its files is damaged.
    """
    path = workdir / "report.html"
    report_page.save(path, render(load(workdir)))
    return path


def render(run: Artifacts) -> str:
    """The page. Model output reaches it only as escaped text or as JSON that is never HTML."""
    script = report_page.asset("page.js")
    browser = report_browser.payload(run)
    return report_page.page(
        "page.html.j2",
        script=Markup(script),
        # The browser runs this one script and no other, whatever a model has written.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=report_browser.script_json(browser),
        browser=browser,
        limits=report_browser,
        missing=run.missing,
        **_provenance(run),
        **_content(run),
    )


def _provenance(run: Artifacts) -> dict[str, Any]:
    config = run.config
    return {
        "preset": config.get("preset", "unnamed preset"),
        "model": config.get("config", {}).get("model", {}).get("name", "unnamed model"),
        "provenance": {
            "Command": config.get("command", "–"),
            "Seed": config.get("seed", "–"),
            "Device": f"{config.get('device', '–')}, {config.get('cpu_count', '–')} CPU cores",
            "Versions": in_words(config.get("versions", {})),
        },
        "config": json.dumps(config.get("config", {}), indent=2),
    }


def _content(run: Artifacts) -> dict[str, Any]:
    return {
        "facts": report_sections.facts(run),
        "sentences": report_verdict.sentences(run.policies),
        "policy_names": [POLICIES[name] for name in run.policies],
        "policies": report_sections.policy_rows(run),
        "rewards": report_figures.reward_figures(run),
        "episode_head": report_play.EPISODE_HEAD,
        "episodes": report_play.episode_rows(run),
        "wins": report_play.win_figures(run),
        "suites": report_play.suite_rows(run),
        "retention": report_sections.retention_rows(run),
        "domain_head": report_domains.domain_head(run),
        "domains": report_domains.domain_rows(run),
        "funnel": report_sections.funnel(run),
        "profile": report_figures.profile_figures(run),
        "reasons": report_reasons.reason_rows(run),
        "profiles": report_domains.profile_rows(run),
        "sample_facts": report_sections.sample_facts(run),
        "warm_start": report_figures.warm_start_figures(run),
        "training": report_figures.training_figures(run),
        "timing": report_sections.timing_rows(run),
        "total_time": report_sections.total_time(run),
        "statuses": report_sections.STATUSES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="work directory of a run")
    parser.add_argument("--markdown", action="store_true", help="print the headline tables instead")
    options = parser.parse_args()
    try:
        run = load(options.workdir)
        print(markdown(run) if options.markdown else write(run.workdir))
    except UserError as error:
        sys.exit(str(error))
    if run.missing:
        print(f"Not in this work directory: {', '.join(run.missing)}.")


if __name__ == "__main__":
    main()
