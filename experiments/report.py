"""Writes report.html, one self-contained page: `python -m experiments.report --workdir=DIR`."""

import argparse
import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.reports import browser as report_browser
from experiments.reports import domains, figures, page, play, reasons, sections, verdict
from experiments.reports.data import POLICIES, Artifacts, load
from experiments.reports.markdown import markdown
from experiments.versions import in_words
from pivotrl_jax.errors import UserError


def write(workdir: Path) -> Path:
    """Write `workdir`/report.html from whatever stages are done and return its path.

    Raises UserError if `workdir` is not a work directory or one of its files is damaged.
    """
    path = workdir / "report.html"
    page.save(path, render(load(workdir)))
    return path


def render(run: Artifacts) -> str:
    """The page. Model output reaches it only as escaped text or as JSON that is never HTML."""
    script = page.asset("page.js")
    browser = report_browser.payload(run)
    return page.page(
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
        "facts": sections.facts(run),
        "sentences": verdict.sentences(run.policies),
        "policy_names": [POLICIES[name] for name in run.policies],
        "policies": sections.policy_rows(run),
        "rewards": figures.reward_figures(run),
        "episode_head": play.EPISODE_HEAD,
        "episodes": play.episode_rows(run),
        "wins": play.win_figures(run),
        "suites": play.suite_rows(run),
        "retention": sections.retention_rows(run),
        "domain_head": domains.domain_head(run),
        "domains": domains.domain_rows(run),
        "funnel": sections.funnel(run),
        "profile": figures.profile_figures(run),
        "reasons": reasons.reason_rows(run),
        "profiles": domains.profile_rows(run),
        "sample_facts": sections.sample_facts(run),
        "warm_start": figures.warm_start_figures(run),
        "training": figures.training_figures(run),
        "timing": sections.timing_rows(run),
        "total_time": sections.total_time(run),
        "statuses": sections.STATUSES,
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
