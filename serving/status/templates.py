"""Templates of the status page; all values in them are escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: object) -> Markup:
    """Render a template of this folder with the values."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _readable(value: object) -> str:
    """Replace lone surrogates, which no encoding allows, and control characters, which HTML forbids, by "?"."""
    if isinstance(value, Markup):
        return value
    text = str(value).encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c.isspace() else "?" for c in text)
