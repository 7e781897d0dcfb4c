"""How samples of a model look: on the terminal, as text of TensorBoard, and as a picture of their images."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from kerasnets.tasks.samples import Samples

SHORT = 24  # characters of the longest value in a table; samples with a longer one are shown below each other
LINES = 4  # of a value; the others are left out
PICTURE_COLUMNS = 4


def format_samples(samples: Samples, width: int = 100) -> str:
    """-> the samples as aligned lines of at most `width` characters: a table if all values are short, else a block of
    lines per sample."""
    rows = [{name: printable(value) for name, value in row.items()} for row in samples.rows]
    short = all(len(value) <= SHORT and "\n" not in value for row in rows for value in row.values())
    lines = format_table(rows) if short else format_blocks(rows, width - 2)
    return "\n".join([samples.title, *(f"  {line}".rstrip() for line in lines)])


def format_table(rows: Sequence[dict[str, str]]) -> list[str]:
    if not rows:
        return []
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)) for row in cells]


def format_blocks(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """-> for each row its fields below each other, and an empty line between rows."""
    lines: list[str] = []
    indent = 2 + max(len(name) for row in rows for name in row)
    for row in rows:
        lines += [""] if lines else []
        for name, value in row.items():
            parts = [part for line in value.split("\n") for part in textwrap.wrap(line, width - indent) or [""]]
            if len(parts) > LINES:
                parts = [*parts[: LINES - 1], f"{parts[LINES - 1][: width - indent - 2]} …"]
            names = [name, *[""] * (len(parts) - 1)]
            lines += [name.ljust(indent) + part for name, part in zip(names, parts, strict=True)]
    return lines


def printable(text: str) -> str:
    """Replace characters that a terminal might obey, except line ends, by their escape sequences."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def to_markdown(samples: Samples) -> str:
    """-> a table for TensorBoard; line ends and what Markdown or HTML would interpret are escaped."""
    if not samples.rows:
        return samples.title

    def cell(text: str) -> str:
        text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
        for character in "\\`*_|":
            text = text.replace(character, f"&#{ord(character)};")
        return text.replace("\n", "<br>")

    names = samples.rows[0]
    lines = [map(cell, names), ["---"] * len(names), *(map(cell, row.values()) for row in samples.rows)]
    return "\n".join([samples.title, "", *(f"| {' | '.join(line)} |" for line in lines)])


def draw_images(samples: Samples) -> np.ndarray:
    """-> the images of the samples as one picture uint8 [Y, X, 3], each below its fields."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert samples.images is not None
    rows = math.ceil(len(samples.rows) / PICTURE_COLUMNS)
    figure = Figure(figsize=(2.2 * PICTURE_COLUMNS, 2.5 * rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, PICTURE_COLUMNS, squeeze=False).flat
    for axis in axes:
        axis.set_axis_off()
    for axis, row, image in zip(figure.axes, samples.rows, samples.images, strict=False):
        axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axis.set_title("\n".join(f"{name} {value}" for name, value in row.items()), fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
