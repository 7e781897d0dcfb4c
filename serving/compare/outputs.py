"""Compare the outputs of A and B: which rows differ, and by how much."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.compare.report import to_json

RESAMPLES, SEED = 10_000, 0
Outputs = dict[str, list]  # {output: value of each row}; a value is bytes, a number, or an array


def compare_outputs(a: Outputs, b: Outputs, rows: int) -> tuple[dict[str, dict[str, Any]], np.ndarray]:
    """Return {output: kind and result of the comparison}, and which rows differ, bool [rows].

    Rows differ if their texts or indices of the maximum differ; if all outputs are scores, if these differ.
    """
    outputs: dict[str, dict[str, Any]] = {}
    choice_differs, score_differs = np.zeros(rows, bool), np.zeros(rows, bool)
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            outputs[name] = {"compared": "no", "reason": f"only {'A' if name in a else 'B'} has it"}
            continue
        if len(a[name]) != rows or len(b[name]) != rows:
            outputs[name] = {"compared": "no", "reason": "it does not have one value for each input"}
            continue
        (kind, values_a), (kind_b, values_b) = values_to_compare(name, a), values_to_compare(name, b)
        if kind == "no" or kind != kind_b:
            outputs[name] = {"compared": "no", "reason": "its shapes or dtypes cannot be compared"}
        elif kind == "score":
            difference = np.array(values_b, np.float64) - np.array(values_a, np.float64)
            low, high = bootstrap_interval(difference)
            outputs[name] = {
                "compared": kind,
                "mean_difference": to_json(difference.mean()),
                "interval_95": [low, high],
            }
            score_differs |= ~np.isclose(values_a, values_b, rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            different = np.array([x != y for x, y in zip(values_a, values_b, strict=True)])
            equal = rows - int(different.sum())
            outputs[name] = {"compared": kind, "equal": equal, "agreement": equal / rows}
            choice_differs |= different
    has_choice = any("agreement" in output for output in outputs.values())
    return outputs, choice_differs if has_choice else score_differs


def values_to_compare(name: str, outputs: Outputs) -> tuple[str, list]:
    """Return the kind of comparison of an output, and the value to compare for each row.

    "text": a string, or the first of several. "score": a number, or the first of several if another output has as many
    strings. "largest": the index of the maximum of several numbers. "no": anything else.
    """
    values = outputs[name]
    axes = max(np.ndim(value) for value in values)
    if axes > 1:
        return "no", values
    if is_text(values[0]):
        return "text", values if axes == 0 else [value[0] if len(value) else None for value in values]
    if axes == 0:
        return "score", values
    sizes = [len(value) for value in values]
    if min(sizes) == 0:
        return "no", values
    strings = (other for other in outputs.values() if is_text(other[0]) and np.ndim(other[0]) == 1)
    if any([len(value) for value in other] == sizes for other in strings):
        return "score", [value[0] for value in values]
    return "largest", [int(np.argmax(value)) for value in values]


def is_text(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype == object)


def bootstrap_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap percentile interval of the mean (Efron & Tibshirani 1993, section 13.3).

    (None, None) for fewer than two values or values that are not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None, None
    generator = np.random.default_rng(SEED)
    chunk = max(1, 1_000_000 // len(values))  # some megabytes
    sizes = [min(chunk, RESAMPLES - done) for done in range(0, RESAMPLES, chunk)]
    means = [values[generator.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
