"""Pictures of translation: the attention of a translation, and scores by length.

L blocks, N heads, T target and S source subwords with their end tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnets.tasks.figures import (
    BLUE,
    MONOSPACE,
    ORANGE,
    SEQUENTIAL,
    SMALL,
    draw_attention,
    label,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MAX_SUBWORDS = 60  # drawn of a side; more would be unreadable
MAX_NAME = 16  # characters of a subword
CELL, HEAD = 0.2, 2.2  # inches: a subword, a row of heads
HEADS_PER_ROW = 4


def draw_explanation(outputs: Mapping[str, np.ndarray], row: int = 0) -> Figure:
    """Draw a translation as `explain` returns it: how much each target subword attends to each source subword in the
    last block, on average over the heads and for each head, and the probability of each target subword.

    Networks without attention get the probabilities alone.
    """
    source, target = (
        [label(token.decode(), MAX_NAME) for token in outputs[f"{side}_tokens"][row] if token]
        for side in ("source", "target")
    )
    longest = max(len(source), len(target))
    source, target = source[:MAX_SUBWORDS], target[:MAX_SUBWORDS]
    weights = outputs["cross_attention"][
        row, -1:, :, : len(target), : len(source)
    ]  # of the last block, if there is one
    heads = [head for block in weights for head in block]
    small_rows = -(-len(heads) // HEADS_PER_ROW) if len(heads) > 1 else 0

    width = max(8.5, 4.5 + CELL * len(source)) if heads else 8.5
    heights = [max(3.5, 2.5 + CELL * len(target))]
    if small_rows:
        heights.append(HEAD * small_rows)
    figure = new_figure(width, sum(heights) + 0.5)
    title = f"Translation: {label(outputs['translation'][row].decode(), int(8 * width))}"
    figure.suptitle(title + (f" (the first {MAX_SUBWORDS} subwords)" if longest > MAX_SUBWORDS else ""), fontsize=12)
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    bars = draw_alignment(upper, heads, source, target) if heads else upper.subplots()
    draw_probabilities(bars, outputs["token_probability"][row][: len(target)], target)
    for part in lower:
        draw_heads(part, heads, small_rows)
    return figure


def draw_alignment(
    figure: SubFigure, heads: Sequence[np.ndarray], source: Sequence[str], target: Sequence[str]
) -> Axes:
    """Draw the mean of the heads' weights [T, S]; -> the axes beside it, which share its rows."""
    weights, beside = figure.subplots(1, 2, sharey=True, width_ratios=(max(5.0, CELL * len(source)), 1.8))
    title = "attention of the last block, mean over its heads" if len(heads) > 1 else "attention"
    draw_attention(weights, np.mean(heads, axis=0), target, source, title)
    weights.set_xlabel("source subwords")
    weights.set_ylabel("target subwords")
    return beside


def draw_probabilities(axes: Axes, probability: np.ndarray, target: Sequence[str]) -> None:
    axes.barh(range(len(target)), probability, height=0.75, color=BLUE)
    axes.set_yticks(range(len(target)), target, fontsize=SMALL, family=MONOSPACE)
    axes.set_ylim(len(target) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("probability")
    axes.set_title("target subwords", fontsize=11)
    axes.grid(axis="x", alpha=0.3)


def draw_heads(figure: SubFigure, heads: Sequence[np.ndarray], rows: int) -> None:
    """A small heat map [T, S] for each head, all with the same colours."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0, float(np.max(heads)) or 1.0)
    panels = figure.subplots(rows, HEADS_PER_ROW, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(heads) :]:
        panel.set_axis_off()
    for n, (panel, weights) in enumerate(zip(panels.flat, heads, strict=False)):
        image = panel.imshow(weights, cmap=SEQUENTIAL, norm=norm, aspect="auto", interpolation="nearest")
        panel.set_title(f"head {n + 1}", fontsize=10)
        panel.tick_params(labelsize=SMALL)
        for axis in (panel.xaxis, panel.yaxis):
            axis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=panels, label="weight", pad=0.01, fraction=0.02)
    figure.supxlabel("position of the source subword", fontsize=10)
    figure.supylabel("target subword", fontsize=10)


def draw_lengths(bins: Sequence[Mapping[str, Any]], direction: str) -> Figure:
    """chrF of the sentences of each length, and below how many these are."""
    figure = new_figure(8, 5)
    scores, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = range(len(bins))
    scores.plot(x, [b["chrf"] for b in bins], "o-", color=BLUE, label="greedy")
    scores.plot(
        x, [b["beam_chrf"] for b in bins], "s--", color=ORANGE, fillstyle="none", markersize=9, label="beam search"
    )
    scores.margins(y=0.2)
    scores.set_ylabel("chrF")
    scores.set_title(f"Translation from {label(direction)}: score by length", fontsize=12)
    scores.legend(frameon=False)
    scores.grid(alpha=0.3)
    bars = counts.bar(x, [b["sentences"] for b in bins], color="tab:gray")
    counts.bar_label(bars, fontsize=SMALL)
    counts.margins(y=0.3)
    counts.set_ylabel("sentences")
    counts.set_xticks(x, [b["length"] for b in bins])
    counts.set_xlabel("length of the source sentence in subwords")
    return figure
