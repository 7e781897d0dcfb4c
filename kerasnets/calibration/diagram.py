"""The reliability diagram."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnets.calibration.bins import BINS, Bins

if TYPE_CHECKING:
    from kerasnets.calibration.temperature import Calibration


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Write the reliability diagram (Guo et al. 2017, figure 1): accuracy by confidence, before and after, the gap
    between the two, and below the number of examples in each interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    panels = (
        ("before", 1.0, calibration.bins_before, calibration.ece_before, calibration.nll_before),
        ("after", calibration.temperature, calibration.bins_after, calibration.ece_after, calibration.nll_after),
    )
    for (upper, lower), (name, temperature, bins, error, loss) in zip(axes.T, panels, strict=True):
        draw_accuracy(upper, bins)
        upper.set_title(f"{name}: T = {temperature:.3g}   ECE {error:.2%}   NLL {loss:.4f}", fontsize=12)
        lower.bar(bin_centers(), bins.count, 0.9 / BINS, color="tab:gray")
        lower.set_xlabel("confidence: probability of the most probable answer", fontsize=11)
        lower.set_xlim(0, 1)
    axes[0, 0].set_ylabel("accuracy: share of right answers", fontsize=11)
    axes[1, 0].set_ylabel("examples", fontsize=11)
    axes[1, 0].set_yscale("log")  # shows the intervals with few examples, which are unreliable
    axes[1, 0].set_ylim(0.5, 2 * calibration.examples)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=11)
    figure.suptitle(f"Reliability on {calibration.examples:,} validation examples", fontsize=13)
    figure.savefig(path, dpi=120)


def draw_accuracy(axes: Any, bins: Bins) -> None:
    nonempty = np.array(bins.count) > 0
    x, accuracy, confidence = (
        bin_centers()[nonempty],
        np.array(bins.accuracy)[nonempty],
        np.array(bins.confidence)[nonempty],
    )
    axes.bar(x, accuracy, 0.9 / BINS, color="tab:blue", label="accuracy")
    axes.bar(
        x,
        confidence - accuracy,
        0.9 / BINS,
        bottom=accuracy,
        color="tab:red",
        alpha=0.4,
        hatch="//",
        edgecolor="tab:red",
        label="gap to the confidence",
    )
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


def bin_centers() -> np.ndarray:
    """-> the center of each interval."""
    return (np.arange(BINS) + 0.5) / BINS
