"""What can be clicked: the examples that an export wrote beside its model, or built-in ones."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from demos.pictures import png
from demos.predictions import decode
from demos.tasks import IMAGES, TEXT, TRANSLATION

INPUTS = {IMAGES: "image_bytes", TEXT: "prompt", TRANSLATION: "text"}  # of serving_default
MOST = 10  # a tab shows


@dataclass(frozen=True)
class Examples:
    """Examples of each tab: encoded pictures, prompts, sentences."""

    images: Sequence[bytes]
    prompts: Sequence[str]
    sentences: Sequence[str]


def load_examples(models_dir: Path | None) -> Examples:
    """The exported models' own examples; built-in ones where there are none (a server on another machine)."""
    images = exported(models_dir, IMAGES) or drawn_digits()
    prompts = exported(models_dir, TEXT) or [b"The ", b"To be, or not", b"Return the "]
    sentences = exported(models_dir, TRANSLATION) or [
        b"twenty-one",
        b"Good morning.",
        b"It is a beautiful day.",
    ]
    return Examples(images, [decode(text) for text in prompts], [decode(text) for text in sentences])


def exported(models_dir: Path | None, task: str) -> list[bytes]:
    """The rows in ``MODELS_DIR/TASK/VERSION/assets.extra/examples.json`` of the highest version."""
    versions = [] if models_dir is None else [path for path in (models_dir / task).glob("*") if path.name.isdigit()]
    if not versions:
        return []
    path = max(versions, key=lambda version: int(version.name)) / "assets.extra" / "examples.json"
    try:
        instances = json.loads(path.read_text(encoding="utf-8"))["instances"]
        return [value(row, INPUTS[task]) for row in instances[:MOST]]
    except FileNotFoundError:
        return []  # any other SavedModel may lie there
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"The examples in {path} cannot be read ({error!r}); built-in ones are shown.", file=sys.stderr)
        return []


def value(row: Any, name: str) -> bytes:
    """One row of TF Serving's REST format: ``{name: x}`` or bare ``x``; x is text or ``{"b64": ...}``."""
    if isinstance(row, dict) and name in row:
        row = row[name]
    if isinstance(row, dict):
        return base64.b64decode(row["b64"], validate=True)
    if not isinstance(row, str):
        raise TypeError(f"a row is {type(row).__name__}, not a string or an object with {name!r}")
    return row.encode()


def drawn_digits(digits: str = "025789") -> list[bytes]:
    """Digits drawn with Pillow's own font, light on dark like handwritten ones."""
    font = ImageFont.load_default(size=76)
    pictures = []
    for digit in digits:
        image = Image.new("L", (96, 96))
        ImageDraw.Draw(image).text((48, 48), digit, fill=255, font=font, anchor="mm", stroke_width=2)
        pictures.append(png(image))
    return pictures
