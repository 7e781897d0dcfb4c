"""Images that are read from their files when they are needed are the images in memory, and changes are noticed."""

import os

import numpy as np
import pytest
import tensorflow as tf

from kerasnets.data import image_files
from kerasnets.data.batches import image_batch
from kerasnets.data.image_files import ImageFiles
from kerasnets.data.sources import load_images
from kerasnets.data.splits import SPLITS, DataError, ImageSplits
from kerasnets.run import fingerprint


@pytest.fixture
def photos(tmp_path):
    """20 images of noise in each of two classes, of several sizes and formats, and a broken one."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(20):
            pixels = random.integers(0, 256, (8 + n % 3, 9, 3), np.uint8)
            encode = tf.io.encode_jpeg if n % 2 else tf.io.encode_png
            (tmp_path / name / f"{n:02}.png").write_bytes(encode(pixels).numpy())
    (tmp_path / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


@pytest.fixture
def load_both(photos, monkeypatch):
    """-> a function: the splits with images that are read from files, and in memory."""
    monkeypatch.setattr(image_files, "BLOCK_FILES", 7)

    def load(size=(8, 8)) -> tuple[ImageSplits, ImageSplits]:
        whole = load_images(f"folder:{photos}", size=size, skip_unreadable=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_files, "MEMORY_LIMIT", 100)
            return load_images(f"folder:{photos}", size=size, skip_unreadable=True), whole

    return load


def test_images_in_files_are_the_images_in_memory(load_both):
    streamed, whole = load_both()
    assert streamed.summary == whole.summary
    assert "1 unreadable (cat/broken.png" in str(streamed.summary)
    for name in SPLITS:
        (images, labels), (expected, expected_labels) = getattr(streamed, name), getattr(whole, name)
        assert isinstance(images, ImageFiles) and isinstance(expected, np.ndarray)
        assert images.shape == expected.shape and images.dtype == expected.dtype
        assert np.array_equal(labels, expected_labels)
        assert np.array_equal(np.asarray(images), expected)
        assert np.array_equal(np.asarray(images[1:3], np.float32), expected[1:3])
    for step in range(9):
        batch, expected_batch = (image_batch(*data.train, 5, 3, step) for data in (streamed, whole))
        assert all(np.array_equal(batch[key], expected_batch[key]) for key in batch)
    assert streamed.first(2).train[0].shape == (2, 8, 8, 3)
    assert np.asarray(streamed.train[0][:0]).shape == (0, 8, 8, 3)


def test_folders_for_splits(photos, tmp_path, load_both):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (photos / name).rename(tmp_path / "train" / name)
    streamed, whole = load_both()
    assert all(np.array_equal(np.asarray(getattr(streamed, n)[0]), getattr(whole, n)[0]) for n in SPLITS)


def test_sizes_that_differ_are_an_error(photos, load_both):
    with pytest.raises(DataError, match="give the size to resize them to"):
        load_both(None)
    for path in photos.glob("*/*.png"):
        if path.name == "broken.png" or int(path.stem) % 3:
            path.unlink()
    streamed, whole = load_both(None)
    assert np.array_equal(np.asarray(streamed.train[0]), whole.train[0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: os.truncate(path, 30), "it had [0-9,]+ bytes and has 30"),
        (lambda path: os.utime(path, ns=(0, 1)), "it was written again"),
        (lambda path: path.unlink(), "it is missing now"),
    ],
    ids=["shrinks", "is written", "is removed"],
)
def test_a_change_while_the_images_are_in_use(photos, load_both, change, sentence):
    images, _ = load_both()[0].train
    for path in photos.glob("*/*.png"):
        change(path)
    with pytest.raises(DataError, match=rf"\.png has changed while it was in use \({sentence}\): restore it"):
        np.asarray(images[:3])


def test_fingerprint(photos, load_both):
    before = [fingerprint.digest(getattr(load_both()[0], name)) for name in SPLITS]
    assert len(set(before)) == 3
    (photos / "cat" / "notes.txt").write_text("other files do not matter")
    assert [fingerprint.digest(getattr(load_both()[0], name)) for name in SPLITS] == before
    for path in photos.glob("*/*[0-9].png"):
        path.write_bytes(tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy())
    assert all(fingerprint.digest(getattr(load_both()[0], name)) not in before for name in SPLITS)


def test_blocks_of_files():
    assert list(image_files.blocks([])) == []
    large = image_files.BLOCK_BYTES
    assert list(image_files.blocks([large + 1, 5, 5, large, 1])) == [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert list(image_files.blocks([1] * (image_files.BLOCK_FILES + 1)))[1][0] == image_files.BLOCK_FILES
