"""Images of the pad: drawings become similar to handwritten digits; image files stay unchanged."""

from __future__ import annotations

import base64
import contextlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile

from demos.images import (
    MARGIN,
    MAX_BYTES,
    MAX_CONVERTED_SIDE,
    UNREADABLE,
    data_url,
    data_url_bytes,
    encode_png,
    image_from_pad,
)
from demos.predictions import PageError


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def drawing(box: tuple[int, int, int, int] | None, colour: tuple[int, int, int] = (0, 0, 0)) -> dict[str, str]:
    """The pad's value for one filled rectangle on its transparent canvas."""
    canvas = Image.new("RGBA", (320, 320), (0, 0, 0, 0))
    if box:
        ImageDraw.Draw(canvas).rectangle(box, fill=(*colour, 255))
    return {"kind": "drawing", "data": data_url(encode(canvas))}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255)], ids=["light theme", "dark theme"])
def test_a_drawing_becomes_white_on_black_square_and_centred(colour: tuple[int, int, int]) -> None:
    sent = pixels(image_from_pad(drawing((10, 200, 29, 299), colour)))  # 20 wide, 100 high, in a corner
    side = round(100 * (1 + 2 * MARGIN))
    assert sent.shape == (side, side)
    assert set(np.unique(sent)) == {0, 255}
    rows, columns = np.nonzero(sent)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (20, 100)
    assert abs(rows.mean() - (side - 1) / 2) <= 0.5
    assert abs(columns.mean() - (side - 1) / 2) <= 0.5


def test_the_position_of_a_drawing_does_not_matter() -> None:
    one = image_from_pad(drawing((10, 10, 49, 89)))
    other = image_from_pad(drawing((200, 150, 239, 229)))
    assert np.array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize("value", [None, {}, {"kind": "drawing", "data": ""}, drawing(None)])
def test_an_empty_pad_is_an_error(value: dict[str, str] | None) -> None:
    with pytest.raises(PageError, match="pad is empty"):
        image_from_pad(value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_images_in_formats_of_the_graph_are_unchanged(kind: str) -> None:
    data = encode(Image.new("RGB", (5, 4), (200, 10, 10)), kind)
    assert image_from_pad({"kind": "image", "data": data_url(data)}) == data
    assert data_url(data).startswith(f"data:image/{kind.lower()};base64,")


def test_other_formats_are_converted_to_png() -> None:
    data = image_from_pad({"kind": "image", "data": data_url(encode(Image.new("RGBA", (5, 4), (1, 2, 3, 0)), "TIFF"))})
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("PNG", (5, 4))


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", encode_png(Image.new("L", (64, 64)))[:-30], b"\x89PNG\r\n\x1a\n" + bytes(64)],
    ids=["nothing", "text", "cut", "rubbish"],
)
def test_a_corrupt_image_is_an_error(data: bytes) -> None:
    with pytest.raises(PageError, match="not a readable image"):
        image_from_pad({"kind": "image", "data": "data:image/png;base64," + base64.b64encode(data).decode()})


def test_invalid_base64_is_an_error() -> None:
    with pytest.raises(PageError, match="not a readable image"):
        data_url_bytes("data:image/png;base64,???")


def test_the_error_of_a_large_file_contains_its_size() -> None:
    with pytest.raises(PageError, match=r"8\.0 MB; at most 8 MB"):
        image_from_pad({"kind": "image", "data": data_url(bytes(MAX_BYTES + 1))})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("PNG", (13_000, 13_000), "13000 × 13000 pixels; at most 25 million"),
        ("GIF", (5001, 5000), "5001 × 5000 pixels; at most 25 million"),
        ("TIFF", (4000, 3251), "This TIFF image has 4000 × 3251 pixels; at most 13 million"),
        ("PNG", (20_000, 20_000), "too many pixels"),  # Pillow's own limit
    ],
)
def test_an_image_with_too_many_pixels_is_rejected_before_decoding(
    kind: str, size: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Image.new("1", size), kind, **({"compression": "group4"} if kind == "TIFF" else {}))
    assert len(data) < 200_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail_to_decode)
    with pytest.raises(PageError, match=words):
        image_from_pad({"kind": "image", "data": data_url(data)})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("size", "words"), [((13_000, 13_000), "13000 × 13000"), ((1000, 1001), "1000 × 1001")])
def test_a_drawing_with_too_many_pixels_is_rejected_before_decoding(
    size: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Image.new("1", size))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail_to_decode)
    with pytest.raises(PageError, match=f"This drawing has {words} pixels; at most 1 million are"):
        image_from_pad({"kind": "drawing", "data": data_url(data)})


def fail_to_decode(image: ImageFile.ImageFile) -> None:
    """Replace the decoding of an image."""
    raise AssertionError("the image was decoded")


def test_formats_of_the_graph_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (30, 30), shade) for shade in range(100)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail_to_decode)
    assert image_from_pad({"kind": "image", "data": data_url(data)}) == data


def test_converted_photos_are_resized() -> None:
    data = encode(Image.effect_noise((2 * MAX_CONVERTED_SIDE, 300), 50), "WEBP", quality=1)
    with Image.open(io.BytesIO(image_from_pad({"kind": "image", "data": data_url(data)}))) as image:
        assert (image.format, image.size) == ("PNG", (MAX_CONVERTED_SIDE, 150))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_an_invalid_drawing_is_an_error(data: bytes) -> None:
    with pytest.raises(PageError, match=UNREADABLE):
        image_from_pad({"kind": "drawing", "data": data_url(data)})


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA"])
def test_other_formats_are_rejected(kind: str) -> None:
    with pytest.raises(PageError, match=UNREADABLE):
        image_from_pad({"kind": "image", "data": data_url(encode(Image.new("RGB", (5, 4)), kind))})


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_corrupt_files_raise_only_page_errors(kind: str) -> None:
    whole = encode(Image.effect_noise((40, 30), 80).convert("RGB"), kind)
    random = np.random.default_rng(7)
    for _ in range(60):
        data = np.frombuffer(whole[: random.integers(1, len(whole) + 1)], np.uint8).copy()
        data[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
        for role in ("drawing", "image"):
            with contextlib.suppress(PageError):
                image_from_pad({"kind": role, "data": data_url(data.tobytes())})


@pytest.mark.parametrize(
    "value", [5, "a", ["a"], {"kind": "photo"}, {"kind": ["drawing"]}, {"kind": "drawing", "data": 5}]
)
def test_an_invalid_value_is_an_error(value: object) -> None:
    with pytest.raises(PageError, match="value of the pad is invalid"):
        image_from_pad(value)
