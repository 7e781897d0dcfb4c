"""The model card of a version on the status page; the file may hold anything."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from typing import Any

from serving.models.storage import read_regular_file

CARD_FILE = os.path.join("assets.extra", "model_card.json")
MAX_BYTES = 1024 * 1024
MAX_CHARACTERS = 2000  # of a value
MAX_METRICS = 6


class UnreadableCard(Exception):
    """The model card cannot be read; the message says why."""


def read_card(path: str) -> Any:
    """Return the model card of the version at `path` (any JSON value), or None without a file.

    Raises: UnreadableCard.
    """
    file = os.path.join(path, CARD_FILE)
    try:
        content = read_regular_file(file, MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableCard(f"{CARD_FILE} cannot be read ({error.strerror}): it must be a JSON file.") from None
    if len(content) > MAX_BYTES:
        raise UnreadableCard(f"{CARD_FILE} has more than {MAX_BYTES:,} bytes; it must be smaller to be shown.")
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "its values are nested too deeply"
    except ValueError as error:  # also an integer of more digits than Python reads
        reason = str(error).partition(";")[0]
    raise UnreadableCard(f"{CARD_FILE} cannot be read as JSON ({reason}).")


def card_lines(card: Any) -> list[tuple[str, list[str]]]:
    """Return the most important entries of a card: names, and the lines of their values."""
    lines: list[tuple[str, list[str]]] = []
    for name, *keys in (
        ("Task", "task"),
        ("Intended use", "intended_use"),
        ("Limits", "limits"),
        ("Data", "data", "dataset"),
        ("", "data", "description"),
        ("Licence", "data", "licence"),
        ("Parameters", "network", "parameters"),
        ("Created", "created"),
    ):
        value = _entry(card, *keys)
        if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
            continue
        text = _cut(value if isinstance(value, str) else f"{value:,}")
        if name:
            lines.append((name, [text]))
        elif lines and lines[-1][0] == "Data":
            lines[-1][1].append(text)
    if metrics := _metrics(card):
        lines.append(("Metrics", metrics))
    return lines


def _metrics(card: Any) -> list[str]:
    """Return the metrics of the evaluations, or of the validation if there are none."""
    evaluations = _entry(card, "metrics", "evaluations")
    results = [entry for entry in evaluations if isinstance(entry, dict)] if isinstance(evaluations, list) else []
    if not results and isinstance(validation := _entry(card, "metrics", "validation"), dict):
        results = [{"split": "validation", **validation}]
    texts = []
    for entry in results:
        numbers = [(k, v) for k, v in entry.items() if isinstance(v, float | int) and not isinstance(v, bool)]
        text = ", ".join(f"{_cut(key)} {_four_digits(value)}" for key, value in numbers[:MAX_METRICS])
        split = entry.get("split")
        if text:
            texts.append(f"{_cut(split) if isinstance(split, str) else 'evaluation'}: {text}")
    return texts


def _four_digits(value: float) -> str:
    try:
        return f"{value:.4g}"
    except OverflowError:  # an integer that is larger than any float
        return f"{Decimal(value):.4g}"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def _entry(card: Any, *keys: str) -> Any:
    for key in keys:
        card = card.get(key) if isinstance(card, dict) else None
    return card
