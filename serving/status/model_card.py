"""What the status page tells of a version's model card, whatever the file holds."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from typing import Any

from serving.models.storage import read_regular_file

CARD_FILE = os.path.join("assets.extra", "model_card.json")
MOST_BYTES = 1024 * 1024
MOST_CHARACTERS = 2000  # of a value that is shown
MOST_METRICS = 6


class UnreadableCard(Exception):
    """A sentence on what is wrong with the file."""


def read_card(path: str) -> Any:
    """The model card of the version at `path`, whatever it holds; None if there is no file.

    Raises: UnreadableCard.
    """
    file = os.path.join(path, CARD_FILE)
    try:
        content = read_regular_file(file, MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableCard(f"{CARD_FILE} cannot be read ({error.strerror}): it must be a file of JSON.") from None
    if len(content) > MOST_BYTES:
        raise UnreadableCard(f"{CARD_FILE} has more than {MOST_BYTES:,} bytes: only smaller ones are shown.")
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
    """What people want to know first of a card: names, and the lines of their values."""
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
    """Of the evaluations; of the validation, if there were none."""
    evaluations = _entry(card, "metrics", "evaluations")
    found = [entry for entry in evaluations if isinstance(entry, dict)] if isinstance(evaluations, list) else []
    if not found and isinstance(validation := _entry(card, "metrics", "validation"), dict):
        found = [{"split": "validation", **validation}]
    texts = []
    for entry in found:
        numbers = [(k, v) for k, v in entry.items() if isinstance(v, float | int) and not isinstance(v, bool)]
        told = ", ".join(f"{_cut(key)} {_four_digits(value)}" for key, value in numbers[:MOST_METRICS])
        split = entry.get("split")
        if told:
            texts.append(f"{_cut(split) if isinstance(split, str) else 'evaluation'}: {told}")
    return texts


def _four_digits(value: float) -> str:
    try:
        return f"{value:.4g}"
    except OverflowError:  # an integer that is larger than any float
        return f"{Decimal(value):.4g}"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _entry(card: Any, *keys: str) -> Any:
    for key in keys:
        card = card.get(key) if isinstance(card, dict) else None
    return card
