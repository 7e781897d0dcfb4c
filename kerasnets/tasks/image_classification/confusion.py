"""Which classes a classifier confuses, and which images it is most wrong about.

N images
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_MATRIX_CLASSES = 20  # more do not fit on a screen: the most confused pairs are listed instead
PAIRS = 20
WORST = 24  # images with the highest loss


def confusion_metrics(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """probabilities [N, classes], labels [N] -> the confusion matrix (rows: true class, columns: predicted class) and
    each class's accuracy (recall) and precision, 0 for a class without images or predictions; for more than
    MAX_MATRIX_CLASSES also the most confused pairs."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, probabilities.argmax(axis=-1)), 1)
    right, of_class, of_prediction = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    metrics: dict[str, Any] = {
        "class_accuracy": [round(float(x), 4) for x in right / np.maximum(of_class, 1)],
        "class_precision": [round(float(x), 4) for x in right / np.maximum(of_prediction, 1)],
        "confusion_matrix": counts.tolist(),
    }
    if len(classes) > MAX_MATRIX_CLASSES:
        metrics["confused_pairs"] = confused_pairs(counts, classes)
    return metrics


def confused_pairs(counts: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """-> the largest mistakes of a confusion matrix, with their share of the true class's images."""
    mistakes = counts - np.diag(counts.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:PAIRS]
    pairs = [
        (int(true), int(predicted)) for true, predicted in zip(*np.unravel_index(order, counts.shape), strict=True)
    ]
    return [
        {
            "class": classes[true],
            "predicted": classes[predicted],
            "count": int(mistakes[true, predicted]),
            "share": round(float(mistakes[true, predicted] / counts[true].sum()), 4),
        }
        for true, predicted in pairs
        if mistakes[true, predicted]
    ]


def worst_images(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """-> the images with the highest loss in nats, by their index in the split; `probability` is that of the
    prediction."""
    losses = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))
    return [
        {
            "loss": round(float(losses[n]), 4),
            "index": int(n),
            "class": classes[labels[n]],
            "predicted": classes[probabilities[n].argmax()],
            "probability": round(float(probabilities[n].max()), 4),
        }
        for n in np.argsort(-losses, kind="stable")[:WORST]
    ]
