"""The examples of the page: those in the exported models, or built-in ones."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from demos.images import encode_png
from demos.predictions import decode
from demos.tasks import IMAGES, TEXT, TRANSLATION

INPUTS = {IMAGES: "image_bytes", TEXT: "prompt", TRANSLATION: "text"}  # of serving_default
MAX_EXAMPLES = 10  # in a tab


@dataclass(frozen=True)
class Examples:
    """Examples of each tab: encoded images, prompts, sentences."""

    images: Sequence[bytes]
    prompts: Sequence[str]
    sentences: Sequence[str]


def load_examples(models_dir: Path | None) -> Examples:
    """Return the examples of the exported models; built-in ones for models without (a server on another machine)."""
    images = exported_examples(models_dir, IMAGES) or draw_digits()
    prompts = exported_examples(models_dir, TEXT) or [b"The ", b"To be, or not", b"Return the "]
    sentences = exported_examples(models_dir, TRANSLATION) or [
        b"twenty-one",
        b"Good morning.",
        b"It is a beautiful day.",
    ]
    return Examples(images, [decode(text) for text in prompts], [decode(text) for text in sentences])


def exported_examples(models_dir: Path | None, task: str) -> list[bytes]:
    """Return the rows of ``MODELS_DIR/TASK/VERSION/assets.extra/examples.json`` of the highest version."""
    versions = [] if models_dir is None else [path for path in (models_dir / task).glob("*") if path.name.isdigit()]
    if not versions:
        return []
    path = max(versions, key=lambda version: int(version.name)) / "assets.extra" / "examples.json"
    try:
        instances = json.loads(path.read_text(encoding="utf-8"))["instances"]
        return [decode_row(row, INPUTS[task]) for row in instances[:MAX_EXAMPLES]]
    except FileNotFoundError:
        return []  # the directory may hold any SavedModel
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"The examples in {path} cannot be read ({error!r}); the page shows built-in ones.", file=sys.stderr)
        return []


def decode_row(row: Any, name: str) -> bytes:
    """Decode one row of TensorFlow Serving's REST format: ``{name: x}`` or ``x``; x is text or ``{"b64": ...}``."""
    if isinstance(row, dict) and name in row:
        row = row[name]
    if isinstance(row, dict):
        return base64.b64decode(row["b64"], validate=True)
    if not isinstance(row, str):
        raise TypeError(f"a row is {type(row).__name__}; it must be a string or an object with {name!r}")
    return row.encode()


def draw_digits(digits: str = "025789") -> list[bytes]:
    """Draw digits with Pillow's built-in font, light on dark like datasets of handwritten digits."""
    font = ImageFont.load_default(size=76)
    images = []
    for digit in digits:
        image = Image.new("L", (96, 96))
        ImageDraw.Draw(image).text((48, 48), digit, fill=255, font=font, anchor="mm", stroke_width=2)
        images.append(encode_png(image))
    return images
