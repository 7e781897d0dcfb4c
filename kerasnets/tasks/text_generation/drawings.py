"""Pictures of how a network reads a text.

T characters, L layers or blocks, U units, N heads, C characters of context
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kerasnets.tasks.figures import MONOSPACE, character_label, draw_activations, draw_attention, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 100  # characters in a line of the text
LINE = 0.26  # inches
MAX_NAMES = 120  # characters that have room below each other's column; more are numbered
UNITS = 8
COLOURS = "cividis"


def draw_reading(outputs: Mapping[str, np.ndarray], row: int = 0) -> Figure:
    """Draw what `explain` returns for a text: its characters, coloured by their probability, and below each other the
    other outputs, by their shape:

        [T, L, U]       gates and cells: those units of the last layer that change most, over time
        [T, L, N, C]    attention weights by distance: those of the last block, mean over its heads
    """
    characters = [c.decode() for c in outputs["characters"][row] if c]
    length = len(characters)
    others = {name: value[row] for name, value in outputs.items() if name not in ("characters", "probability")}
    activations = {name: value[:length, -1] for name, value in others.items() if value.ndim == 3}
    attention = {name: value[:length, -1].mean(axis=1) for name, value in others.items() if value.ndim == 4}

    heights = [0.5 + LINE * -(-length // COLUMNS)] + [1.6] * len(activations) + [7.0] * len(attention)
    figure = new_figure(13, sum(heights) + 0.6)
    panels = iter(figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0])
    draw_characters(next(panels), characters, outputs["probability"][row][:length])
    names = [character_label(c) for c in characters] if length <= MAX_NAMES else []
    units = changing_units(list(activations.values()))
    for name, values in activations.items():
        panel = next(panels)
        title = f"{name.replace('_', ' ')} of the last layer: the {len(units)} units that change most"
        draw_activations(panel, values[:, units].T, [str(n) for n in units], names, title)
        panel.set_ylabel("unit")
    if activations:
        panel.set_xlabel("character" if names else "position of the character")
    for name, weights in attention.items():
        panel = next(panels)
        title = f"{name.replace('_', ' ')} of the last block, mean over its heads"
        draw_attention(panel, by_position(weights), names, names, title)
        panel.set_xlabel("character that is attended to")
        panel.set_ylabel("character that attends")
    return figure


def by_position(weights: np.ndarray) -> np.ndarray:
    """weights [T, C] of the character t - d at the position t, by their distance d -> [T, T], by their position."""
    length, context = weights.shape
    matrix = np.zeros((length, length), weights.dtype)
    for distance in range(min(length, context)):
        positions = np.arange(distance, length)
        matrix[positions, positions - distance] = weights[positions, distance]
    return matrix


def changing_units(activations: list[np.ndarray]) -> list[int]:
    """activations, each [T, U] -> the units that change most over time, by their mean rank among the outputs."""
    if not activations:
        return []
    ranks = [values.std(axis=0).argsort(kind="stable").argsort() for values in activations]
    return sorted(np.argsort(-np.sum(ranks, axis=0), kind="stable")[:UNITS].tolist())


def draw_characters(axes: Axes, characters: list[str], probability: np.ndarray) -> None:
    """The text in lines of COLUMNS characters, each on the colour of its probability."""
    lines = -(-len(characters) // COLUMNS)
    grid = np.full(lines * COLUMNS, np.nan)
    grid[: len(characters)] = probability
    image = axes.imshow(grid.reshape(lines, COLUMNS), cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for n, (character, p) in enumerate(zip(characters, probability, strict=True)):
        color = "white" if p < 0.5 else "black"
        y, x = divmod(n, COLUMNS)
        text = character_label(character)
        axes.text(x, y, text, color=color, family=MONOSPACE, fontsize=11, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks(range(lines), [str(COLUMNS * n) for n in range(lines)])
    axes.spines[:].set_visible(False)
    axes.set_ylabel("position")
    axes.set_title("probability of each character after those before it", fontsize=12)
    axes.figure.colorbar(image, ax=axes, label="probability", pad=0.01, fraction=0.03, ticks=[0, 0.5, 1])
