"""Parts that the pictures of several tasks share. Matplotlib is imported only when a picture is drawn.

    T target and S source positions, U units

Colour maps have monotonic lightness, so pictures are readable with any colour vision and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEQUENTIAL, DIVERGING = "viridis", "PuOr"
BLUE, ORANGE = "#0072B2", "#D55E00"  # distinguishable with any colour vision (Okabe & Ito 2008)
LARGE = 10.0  # of activations
SMALL = 8  # font size of labels
FONT, MONOSPACE = "DejaVu Sans", "DejaVu Sans Mono"  # come with Matplotlib
SYMBOLS = {"\n": "↵", "\t": "→", "\r": "←", " ": "·"}


def new_figure(width: float, height: float) -> Figure:
    """-> an empty figure of this size in inches that fits its parts into itself."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def add_fonts(figure: Figure) -> None:
    """Let texts use installed fonts for the characters that Matplotlib's own font lacks, such as Chinese ones.

    A character that no font has is drawn as a box.
    """
    from matplotlib import font_manager
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text()]
    missing = {ord(c) for text in texts for c in text.get_text()} - glyphs(font_manager.findfont(FONT))
    families = []
    for font in font_manager.fontManager.ttflist:
        if missing and "Last Resort" not in font.name and (found := missing & glyphs(font.fname)):
            families.append(font.name)
            missing -= found
    for text in texts if families else []:
        text.set_fontfamily([*text.get_fontfamily(), FONT, *families])


def glyphs(path: str) -> set[int]:
    """-> the code points that a font file has; none if Matplotlib cannot read it."""
    from matplotlib import font_manager

    try:
        return set(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return set()


def label(text: str, length: int | None = None) -> str:
    """-> a text for Matplotlib: in one line, shortened to `length` characters, and never read as a formula."""
    if length is not None and len(text) > length:
        text = text[: length - 1] + "…"
    return "".join(c if c.isprintable() else SYMBOLS.get(c, "\ufffd") for c in text).replace("$", r"\$")


def character_label(character: str) -> str:
    """-> a visible sign for a character, also for white space."""
    return label(SYMBOLS.get(character, character))


def draw_attention(axes: Axes, weights: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Draw attention weights [T, S], on a square-root scale: weights of long texts are small beside those of 1."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0, float(weights.max()) or 1.0)
    draw_heat_map(axes, weights, {"cmap": SEQUENTIAL, "norm": norm}, title, "weight", rows, columns)


def draw_activations(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    """Draw the outputs [U, T] of units: gates from 0 to 1, other values in colours that diverge from 0.

    Large values are on a logarithmic scale beyond 1: some cells count, and others stay small.
    """
    from matplotlib.colors import Normalize, SymLogNorm

    highest = float(np.abs(values).max()) or 1.0
    if values.min() >= 0 and highest <= 1:
        colours = {"cmap": SEQUENTIAL, "norm": Normalize(0, 1)}
    elif highest <= LARGE:
        colours = {"cmap": DIVERGING, "norm": Normalize(-highest, highest)}
    else:
        colours = {"cmap": DIVERGING, "norm": SymLogNorm(linthresh=1, vmin=-highest, vmax=highest)}
    draw_heat_map(axes, values, colours, title, "value", rows, columns)


def draw_heat_map(
    axes: Axes,
    values: np.ndarray,
    colours: dict[str, Any],
    title: str,
    unit: str,
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Draw an array with a colour bar, and with a name at each row and column; without names they have numbers."""
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **colours)
    if columns:
        rotation = 90 if max(map(len, columns)) > 1 else 0
        axes.set_xticks(range(len(columns)), columns, fontsize=SMALL, rotation=rotation, family=MONOSPACE)
    if rows:
        axes.set_yticks(range(len(rows)), rows, fontsize=SMALL, family=MONOSPACE)
    axes.tick_params(length=2)
    axes.set_title(title, fontsize=11)
    axes.figure.colorbar(image, ax=axes, label=unit, pad=0.01, fraction=0.03, aspect=30)
