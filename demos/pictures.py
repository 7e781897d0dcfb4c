"""What the picture pad holds, turned into the bytes that are sent."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from demos.predictions import Problem

AS_IS = {"PNG", "JPEG", "GIF", "BMP"}  # what the exported graph decodes by itself
MARGIN = 0.1  # of the longer side, on each side: between the bundled digits (almost none) and MNIST (0.2)
MAX_BYTES = 8_000_000
NOTHING = "The pad is empty: draw something, choose a picture, or click an example."
UNREADABLE = "This file is not a picture that can be read: choose a PNG or JPEG."


def picture_bytes(value: Mapping[str, Any] | None) -> bytes:
    """The pad's value ``{"kind": "drawing" | "picture", "data": data URL}`` -> an encoded picture."""
    if not value or not value.get("data"):
        raise Problem(NOTHING)
    data = data_url_bytes(str(value["data"]))
    return drawing_png(data) if value.get("kind") == "drawing" else readable(data)


def data_url_bytes(url: str) -> bytes:
    """``data:TYPE;base64,...`` -> bytes."""
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise Problem(UNREADABLE) from error


def data_url(data: bytes) -> str:
    """Bytes of a picture -> a URL that a page can show without asking for a file."""
    kind = next((name for start, name in MAGIC.items() if data.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


MAGIC = {b"\xff\xd8": "jpeg", b"GIF8": "gif", b"BM": "bmp"}


def readable(data: bytes) -> bytes:
    """A picture file as it is, or as PNG where the graph could not decode its format."""
    if len(data) > MAX_BYTES:
        raise Problem(f"This picture has {len(data) / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB are sent.")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return data if image.format in AS_IS else png(image.convert("RGB"))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # all that Pillow raises
        raise Problem(UNREADABLE) from error


def drawing_png(data: bytes) -> bytes:
    """Strokes on a transparent canvas -> white strokes on black, cropped to a square around them.

    Sets of handwritten digits are light on dark, centred, and fill their frame; a small drawing in a corner
    would look like nothing that a network has seen.
    """
    with Image.open(io.BytesIO(data)) as canvas:
        strokes = canvas.convert("RGBA").getchannel("A")  # the alpha channel is the drawing in any theme's colours
    box = strokes.point(lambda alpha: 255 * (alpha > 64)).getbbox()
    if box is None:
        raise Problem(NOTHING)
    return png(square(strokes.crop(box)))


def square(strokes: Image.Image) -> Image.Image:
    """Put cropped strokes into the middle of a black square with a margin."""
    longer = max(strokes.size)
    side = round(longer * (1 + 2 * MARGIN))
    frame = Image.new("L", (side, side))
    frame.paste(strokes, ((side - strokes.width) // 2, (side - strokes.height) // 2))
    return frame


def png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
