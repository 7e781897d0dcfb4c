"""Pictures of image classification: explanations, confusion of classes, and images with the highest loss.

Y × X pixels with C channels; n feature maps of y × x
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasnets.tasks.figures import BLUE, ORANGE, SMALL, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAME = 24  # characters of a class
MAX_MAPS = 64
SHEET_COLUMNS = 6


def draw_explanation(image: np.ndarray, pixels: np.ndarray, outputs: Mapping[str, np.ndarray], row: int = 0) -> Figure:
    """Draw what `explain` returns for an image: the classes, the heat map of the best class over the image, and the
    feature maps of the first block.

    Args: image: as in its file, uint8 [any size, 3]; pixels: as the network sees it, [Y, X, C].
    """
    names = [label(name.decode(), MAX_NAME) for name in outputs["label"][row]]
    figure = new_figure(11, 8.5)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.25))[:, 0]
    whole, explained, bars = upper.subplots(1, 3, width_ratios=(1, 1.2, 1.1))
    draw_image(whole, image)
    whole.set_title("image", fontsize=11)
    whole.set_xlabel(f"{image.shape[1]} × {image.shape[0]} pixels")
    draw_image(explained, pixels.mean(axis=-1, keepdims=True))
    colours = fading("plasma")
    heat = explained.imshow(outputs["heatmap"][row], cmap=colours, vmin=0, vmax=1, interpolation="bilinear")
    explained.set_title(f"evidence for {label(outputs['label'][row][0].decode(), MAX_NAME // 2)}", fontsize=11)
    rows, columns = pixels.shape[:2]
    explained.set_xlabel(f"as the network sees it, {columns} × {rows} pixels")
    upper.colorbar(heat, ax=explained, label="evidence, 1 = most", fraction=0.05)
    draw_classes(bars, names, outputs["score"][row])
    draw_feature_maps(lower.subplots(), outputs["feature_maps"][row])
    return figure


def fading(name: str) -> Any:
    """-> a colour map that is the more transparent, the lower the value."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    colours = matplotlib.colormaps[name](np.linspace(0, 1, 256))
    colours[:, 3] = np.linspace(0, 0.85, 256)
    return ListedColormap(colours)


def draw_image(axes: Axes, pixels: np.ndarray) -> None:
    """pixels [Y, X, C], 0..255, in gray or in colour."""
    gray = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if gray else pixels.astype(np.uint8), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_classes(axes: Axes, names: Sequence[str], scores: np.ndarray) -> None:
    bars = axes.barh(range(len(names)), scores, color=BLUE)
    axes.bar_label(bars, [f"{score:.1%}" for score in scores], padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)  # room for the numbers
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("probability")
    axes.set_title("most probable classes", fontsize=11)


def draw_feature_maps(axes: Axes, maps: np.ndarray) -> None:
    """maps [y, x, n], each scaled to its own range: as a grid, or, if they are one column wide, side by side."""
    y, x, total = maps.shape
    maps = maps[..., :MAX_MAPS]
    lowest = maps.min(axis=(0, 1))
    scaled = (maps - lowest) / np.maximum(maps.max(axis=(0, 1)) - lowest, 1e-12)
    count = f"{total}" if total <= MAX_MAPS else f"the first {MAX_MAPS} of {total}"
    if x == 1:
        axes.imshow(scaled[:, 0], cmap="viridis", aspect="auto", interpolation="nearest")
        axes.set_xlabel("unit")
        axes.set_ylabel("row of the image")
        title = f"outputs of {count} units after each row of the image, each scaled to its own range, bright = high"
        axes.set_title(title, fontsize=11)
        return
    axes.imshow(tile(scaled), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    title = f"first block: {count} feature maps of {x} × {y}, each scaled to its own range, bright = high"
    axes.set_title(title, fontsize=11)


def tile(maps: np.ndarray) -> np.ndarray:
    """maps [y, x, n] -> one image of a grid that is about twice as wide as high; NaN between the maps."""
    y, x, count = maps.shape
    columns = min(count, int(np.ceil(np.sqrt(2.2 * count * y / x))))
    rows = -(-count // columns)
    gap = max(1, x // 12)
    padded = np.full((rows * columns, y + gap, x + gap), np.nan)
    padded[:count, :y, :x] = np.moveaxis(maps, -1, 0)
    grid = padded.reshape(rows, columns, y + gap, x + gap).transpose(0, 2, 1, 3)
    return grid.reshape(rows * (y + gap), columns * (x + gap))[:-gap, :-gap]


def draw_confusion(metrics: Mapping[str, Any]) -> Figure:
    """The confusion matrix with each class's recall and precision; for many classes the most confused pairs."""
    if "confused_pairs" in metrics:
        return draw_confused_pairs(metrics)
    from matplotlib.colors import PowerNorm

    counts = np.array(metrics["confusion_matrix"])
    names = [label(name, MAX_NAME) for name in metrics["classes"]]
    size = 0.45 * len(names)
    figure = new_figure(max(6.0, size) + 4, max(4.0, size) + 1.5)
    matrix, scores = figure.subplots(1, 2, sharey=True, width_ratios=(max(6.0, size), 2))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Few mistakes of many images shall be visible.
    matrix.imshow(share, cmap="Blues", norm=PowerNorm(0.4, 0, 1), aspect="auto")
    for (y, x), count in np.ndenumerate(counts):
        if count:
            matrix.text(
                x, y, str(count), ha="center", va="center", fontsize=9, color="white" if share[y, x] > 0.3 else "black"
            )
    matrix.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 4 else 0)
    matrix.set_yticks(range(len(names)), names)
    matrix.set_xlabel("predicted class")
    matrix.set_ylabel("true class")
    matrix.set_title("number of images; dark = a large share of the true class", fontsize=11)
    rows = np.arange(len(names))
    scores.plot(metrics["class_accuracy"], rows, "o", color=BLUE, label="recall")
    scores.plot(metrics["class_precision"], rows, "s", color=ORANGE, fillstyle="none", label="precision")
    lowest = min(*metrics["class_accuracy"], *metrics["class_precision"])
    scores.set_xlim(min(0.9, lowest) - 0.05, 1.03)
    scores.grid(alpha=0.3)
    scores.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=SMALL + 1, frameon=False)
    figure.suptitle(summary(metrics), fontsize=12)
    return figure


def draw_confused_pairs(metrics: Mapping[str, Any]) -> Figure:
    pairs = metrics["confused_pairs"]
    names = [f"{label(pair['class'], MAX_NAME)} → {label(pair['predicted'], MAX_NAME)}" for pair in pairs]
    figure = new_figure(8, 1.8 + 0.28 * max(len(names), 4))
    axes = figure.subplots()
    bars = axes.barh(range(len(pairs)), [pair["count"] for pair in pairs], color=BLUE)
    axes.bar_label(bars, [f"{pair['count']} ({pair['share']:.0%})" for pair in pairs], padding=3, fontsize=SMALL)
    axes.set_yticks(range(len(pairs)), names, fontsize=SMALL + 1)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.01)
    axes.set_xlabel("images (share of the true class)")
    axes.set_title("true class → predicted class: the most confused pairs", fontsize=11)
    figure.suptitle(summary(metrics), fontsize=12)
    return figure


def draw_worst(images: np.ndarray, metrics: Mapping[str, Any]) -> Figure:
    """images uint8 [N, Y, X, C]: the contact sheet of `metrics["worst_examples"]`."""
    examples = metrics["worst_examples"]
    rows = -(-len(examples) // SHEET_COLUMNS)
    figure = new_figure(1.8 * SHEET_COLUMNS, 2.2 * rows + 0.6)
    panels = figure.subplots(rows, SHEET_COLUMNS, squeeze=False).flat
    for panel in panels:
        panel.set_axis_off()
    for panel, image, example in zip(figure.axes, images, examples, strict=False):
        draw_image(panel, image)
        true, predicted = (label(example[key], MAX_NAME // 2) for key in ("class", "predicted"))
        panel.set_title(f"{true} → {predicted}\n{example['probability']:.0%}", fontsize=9)
    title = f"{metrics['split']} split: the {len(examples)} images with the highest loss"
    figure.suptitle(f"{title}\ntrue class → predicted class, and its probability", fontsize=12)
    return figure


def summary(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['split']} split: accuracy {metrics['accuracy']:.2%} of {metrics['examples']:,} images"
