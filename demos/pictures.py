"""What the picture pad holds, turned into the bytes that are sent."""

from __future__ import annotations

import base64
import io
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from PIL import Image

from demos.predictions import Problem

AS_IS = ("PNG", "JPEG", "GIF", "BMP")  # what the exported graph decodes by itself
CONVERTED = ("WEBP", "TIFF", "AVIF")  # the others that are read: Pillow gives some formats (EPS) to other programs
MARGIN = 0.1  # of the longer side, on each side: between the bundled digits (almost none) and MNIST (0.2)
MAX_BYTES = 8_000_000
MAX_PIXELS = 25_000_000  # as in the exported graph; by the header, before anything is decoded
MAX_CONVERTED_PIXELS = 13_000_000  # a telephone's photograph; it takes 20 bytes a pixel
MAX_DRAWING_PIXELS = 1_000_000  # the pad has 320 × 320
MAX_CONVERTED_SIDE = 2000  # pixels; the networks' own pictures have far fewer, and PNG does not compress photographs
NOTHING = "The pad is empty: draw something, choose a picture, or click an example."
UNREADABLE = "This file is not a picture that can be read: choose a PNG or JPEG."
UNKNOWN = 'The pad holds neither a drawing nor a picture: give {"kind": "drawing" or "picture", "data": a data URL}.'
TOO_MANY_PIXELS = "This picture has too many pixels: choose a smaller one."
# What Pillow raises for files that are not what they seem.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error)
DECODING = threading.Lock()  # one picture at a time, whose size bounds the memory
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # smaller ones are refused here


def picture_bytes(value: object) -> bytes:
    """The pad's value ``{"kind": "drawing" | "picture", "data": data URL}`` -> an encoded picture."""
    if not value:  # nothing, or a page's empty text
        raise Problem(NOTHING)
    if not isinstance(value, Mapping) or value.get("kind") not in ("drawing", "picture"):
        raise Problem(UNKNOWN)
    url = value.get("data")
    if not url:
        raise Problem(NOTHING)
    if not isinstance(url, str):
        raise Problem(UNKNOWN)
    data = data_url_bytes(url)
    return drawing_png(data) if value["kind"] == "drawing" else readable(data)


def data_url_bytes(url: str) -> bytes:
    """``data:TYPE;base64,...`` -> at most ``MAX_BYTES`` bytes."""
    text = url.partition(",")[2]
    size = len(text) * 3 // 4 - text[-2:].count("=")
    if size > MAX_BYTES:
        raise Problem(f"This picture has {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB are sent.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii's, or that of characters beyond ASCII
        raise Problem(UNREADABLE) from error


def data_url(data: bytes) -> str:
    """Bytes of a picture -> a URL that a page can show without asking for a file."""
    kind = next((name for start, name in MAGIC.items() if data.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


MAGIC = {b"\xff\xd8": "jpeg", b"GIF8": "gif", b"BM": "bmp"}


@contextmanager
def opened(data: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture file of which the header is read; ``Problem`` for what cannot be read, now or when it is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise Problem(TOO_MANY_PIXELS) from error
    except BROKEN as error:
        raise Problem(UNREADABLE) from error


def check_size(image: Image.Image, kind: str, most: int) -> None:
    """Raise ``Problem`` for more than ``most`` pixels."""
    if image.width * image.height > most:
        raise Problem(
            f"This {kind} has {image.width} × {image.height} pixels; at most {most // 1_000_000} million are taken: "
            "choose a smaller one."
        )


def readable(data: bytes) -> bytes:
    """A picture file as it is, or as PNG where the graph could not decode its format.

    What the graph decodes is not decoded here: the graph looks at it more closely, and says what is wrong with it.
    """
    with opened(data, AS_IS + CONVERTED) as image:
        if image.format in AS_IS:
            check_size(image, "picture", MAX_PIXELS)
            image.verify()
            return data
        check_size(image, f"{image.format} picture", MAX_CONVERTED_PIXELS)
        with DECODING:
            picture = image.convert("RGB")
            picture.thumbnail((MAX_CONVERTED_SIDE, MAX_CONVERTED_SIDE))
            return png(picture)


def drawing_png(data: bytes) -> bytes:
    """Strokes on a transparent canvas -> white strokes on black, cropped to a square around them.

    Sets of handwritten digits are light on dark, centred, and fill their frame; a small drawing in a corner
    would look like nothing that a network has seen.
    """
    with opened(data, ("PNG",)) as canvas:
        check_size(canvas, "drawing", MAX_DRAWING_PIXELS)
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
