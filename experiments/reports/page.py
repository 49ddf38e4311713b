"""Pages that are one file: a template of assets with its style, nothing from outside."""

import os
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"


def page(template: str, **content: Any) -> str:
    """The template filled in; what is not Markup is escaped, what is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup(asset("chart.css") + asset("page.css"))
    return environment.get_template(template).render(style=style, **content)


def from_markdown(text: str) -> Markup:
    """Markdown with its tables; HTML in it is text."""
    return Markup(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def save(path: Path, text: str) -> None:
    """Whole or not at all: an interrupted write leaves the earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
