"""Drawings become what handwritten digits look like; pictures stay as they are."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from demos.pictures import MARGIN, MAX_BYTES, data_url, data_url_bytes, picture_bytes, png
from demos.predictions import Problem


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
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
def test_a_drawing_is_white_on_black_square_and_centred(colour: tuple[int, int, int]) -> None:
    sent = pixels(picture_bytes(drawing((10, 200, 29, 299), colour)))  # 20 wide, 100 high, in a corner
    side = round(100 * (1 + 2 * MARGIN))
    assert sent.shape == (side, side)
    assert set(np.unique(sent)) == {0, 255}
    rows, columns = np.nonzero(sent)
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (20, 100)
    assert abs(rows.mean() - (side - 1) / 2) <= 0.5
    assert abs(columns.mean() - (side - 1) / 2) <= 0.5


def test_where_and_how_large_it_was_drawn_does_not_change_its_place_in_the_frame() -> None:
    one = picture_bytes(drawing((10, 10, 49, 89)))
    other = picture_bytes(drawing((200, 150, 239, 229)))
    assert np.array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize("value", [None, {}, {"kind": "drawing", "data": ""}, drawing(None)])
def test_an_empty_pad_is_said(value: dict[str, str] | None) -> None:
    with pytest.raises(Problem, match="pad is empty"):
        picture_bytes(value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_pictures_are_sent_as_they_are(kind: str) -> None:
    data = encode(Image.new("RGB", (5, 4), (200, 10, 10)), kind)
    assert picture_bytes({"kind": "picture", "data": data_url(data)}) == data
    assert data_url(data).startswith(f"data:image/{kind.lower()};base64,")


def test_a_format_that_the_graph_cannot_decode_is_sent_as_png() -> None:
    data = picture_bytes({"kind": "picture", "data": data_url(encode(Image.new("RGBA", (5, 4), (1, 2, 3, 0)), "TIFF"))})
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("PNG", (5, 4))


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", png(Image.new("L", (64, 64)))[:-30], b"\x89PNG\r\n\x1a\n" + bytes(64)],
    ids=["nothing", "text", "cut", "rubbish"],
)
def test_a_corrupt_picture_is_said(data: bytes) -> None:
    with pytest.raises(Problem, match="not a picture that can be read"):
        picture_bytes({"kind": "picture", "data": "data:image/png;base64," + base64.b64encode(data).decode()})


def test_a_picture_that_is_no_base64_is_said() -> None:
    with pytest.raises(Problem, match="not a picture that can be read"):
        data_url_bytes("data:image/png;base64,???")


def test_a_huge_picture_is_said_with_its_size() -> None:
    with pytest.raises(Problem, match=r"8\.0 MB; at most 8 MB"):
        picture_bytes({"kind": "picture", "data": data_url(bytes(MAX_BYTES + 1))})
