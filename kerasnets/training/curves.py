"""The learning curves of a run, `curves.png`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerasnets.run.files import write_figure
from kerasnets.tasks.protocol import Metrics

FILE = "curves.png"
# Colours that people with any colour vision can distinguish (Okabe & Ito 2008).
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SIZE = 8  # font size of the smallest text


def draw_curves(
    training: Sequence[Metrics], validation: Sequence[Metrics], best: Metrics, steps_per_epoch: int, path: Path
) -> None:
    """Draw losses, the other metrics of the validations, and the learning rate, by epoch.

    Args: training, validation: log entries, at least one each; best: the validation of the best weights.
    """
    from matplotlib.figure import Figure

    metrics = [name for name in validation[0] if name not in ("kind", "step", "epoch", "seconds", "loss")]
    heights = [3.0, *[2.0] * len(metrics), 1.5]
    height = 1 + sum(heights)
    figure = Figure(figsize=(8, height), dpi=100)  # without a layout engine, which takes most of a second
    figure.subplots_adjust(left=0.1, right=0.98, top=1 - 0.45 / height, bottom=0.55 / height)
    figure.suptitle(path.parent.name, fontsize=11)
    panels = iter(figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    steps, epochs = ([entry["step"] / steps_per_epoch for entry in entries] for entries in (training, validation))
    for name in ["loss", *metrics]:
        panel = next(panels)
        if name == "loss":
            panel.plot(steps, [entry["loss"] for entry in training], color=BLUE, linewidth=1, label="training")
        if name in validation[0]:
            values = [entry[name] for entry in validation]
            panel.plot(epochs, values, color=ORANGE, marker="o", markersize=3.5, linewidth=1.5, label="validation")
            panel.plot(
                best["step"] / steps_per_epoch,
                best[name],
                color="black",
                marker="o",
                markersize=10,
                fillstyle="none",
                linestyle="none",
                label=f"best weights: epoch {best['epoch']}, {best[name]:.4g}",
            )
        label(panel, "loss (nats)" if name == "loss" else name.replace("_", " "))
        panel.legend(fontsize=SIZE + 1, frameon=False)
    panel = next(panels)
    panel.plot(steps, [entry["learning_rate"] for entry in training], color=GREEN, linewidth=1.5)
    panel.set_ylim(bottom=0)
    label(panel, "learning rate")
    panel.set_xlabel("epoch")
    panel.set_xlim(left=0)
    panel.xaxis.get_major_locator().set_params(integer=len(validation) > 1)
    figure.align_ylabels()
    write_figure(path, figure)


def label(panel: Any, name: str) -> None:
    panel.set_ylabel(name)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=SIZE + 1)
    panel.spines[["top", "right"]].set_visible(False)
