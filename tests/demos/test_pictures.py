"""Drawings become what handwritten digits look like; pictures stay as they are."""

from __future__ import annotations

import base64
import contextlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile

from demos.pictures import (
    MARGIN,
    MAX_BYTES,
    MAX_CONVERTED_SIDE,
    UNREADABLE,
    data_url,
    data_url_bytes,
    picture_bytes,
    png,
)
from demos.predictions import Problem


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [
        ("PNG", (13_000, 13_000), "13000 × 13000 pixels; at most 25 million"),
        ("GIF", (5001, 5000), "5001 × 5000 pixels; at most 25 million"),
        ("TIFF", (4000, 3251), "This TIFF picture has 4000 × 3251 pixels; at most 13 million"),
        ("PNG", (20_000, 20_000), "too many pixels"),  # Pillow's own limit
    ],
)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(
    kind: str, size: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Image.new("1", size), kind, **({"compression": "group4"} if kind == "TIFF" else {}))
    assert len(data) < 200_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    with pytest.raises(Problem, match=words):
        picture_bytes({"kind": "picture", "data": data_url(data)})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("size", "words"), [((13_000, 13_000), "13000 × 13000"), ((1000, 1001), "1000 × 1001")])
def test_a_drawing_of_too_many_pixels_is_refused_by_its_header(
    size: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Image.new("1", size))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    with pytest.raises(Problem, match=f"This drawing has {words} pixels; at most 1 million are taken"):
        picture_bytes({"kind": "drawing", "data": data_url(data)})


def decoded(image: ImageFile.ImageFile) -> None:
    """In place of a picture's decoding."""
    raise AssertionError("the picture was decoded")


def test_what_the_graph_decodes_is_not_decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (30, 30), shade) for shade in range(100)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert picture_bytes({"kind": "picture", "data": data_url(data)}) == data


def test_a_converted_photograph_is_made_small_enough_to_send() -> None:
    data = encode(Image.effect_noise((2 * MAX_CONVERTED_SIDE, 300), 50), "WEBP", quality=1)
    with Image.open(io.BytesIO(picture_bytes({"kind": "picture", "data": data_url(data)}))) as image:
        assert (image.format, image.size) == ("PNG", (MAX_CONVERTED_SIDE, 150))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_junk_for_a_drawing_is_said(data: bytes) -> None:
    with pytest.raises(Problem, match=UNREADABLE):
        picture_bytes({"kind": "drawing", "data": data_url(data)})


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA"])
def test_formats_that_nobody_needs_are_not_read(kind: str) -> None:
    with pytest.raises(Problem, match=UNREADABLE):
        picture_bytes({"kind": "picture", "data": data_url(encode(Image.new("RGB", (5, 4)), kind))})


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_a_broken_file_is_a_problem_and_no_other_error(kind: str) -> None:
    whole = encode(Image.effect_noise((40, 30), 80).convert("RGB"), kind)
    random = np.random.default_rng(7)
    for _ in range(60):
        data = np.frombuffer(whole[: random.integers(1, len(whole) + 1)], np.uint8).copy()
        data[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
        for role in ("drawing", "picture"):
            with contextlib.suppress(Problem):
                picture_bytes({"kind": role, "data": data_url(data.tobytes())})


@pytest.mark.parametrize(
    "value", [5, "a", ["a"], {"kind": "photo"}, {"kind": ["drawing"]}, {"kind": "drawing", "data": 5}]
)
def test_what_no_pad_holds_is_said(value: object) -> None:
    with pytest.raises(Problem, match="neither a drawing nor a picture"):
        picture_bytes(value)
