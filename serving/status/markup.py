"""HTML from Python: whatever is not made here is text, and escaped."""

from __future__ import annotations

from html import escape

EMPTY_ELEMENTS = frozenset({"br", "link", "meta"})


class Markup(str):
    """HTML, as it is."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no Markup are escaped; None is nothing.

    Attributes: `class_` is class, other underscores are hyphens; None and False leave one out, True gives it no value.
    """
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.removesuffix("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{_text(value, quote=True)}"'
    if name in EMPTY_ELEMENTS:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """One after the other."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _text(child) for child in children if child is not None)
    )


def _text(value: object, quote: bool = False) -> str:
    """Half a character, which no encoding takes, becomes "?"; so do control characters, which no HTML may hold."""
    text = str(value).encode("utf-8", "replace").decode()
    return escape("".join(c if c.isprintable() or c.isspace() else "?" for c in text), quote)
