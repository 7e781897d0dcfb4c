"""The user's own data: a text, pairs of sentences, pictures in a folder for each class."""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kerasnets.data.splits import (
    SPLITS,
    DataError,
    ImageSplits,
    PairSplits,
    TextSplits,
    columns,
    cut_missing,
    cut_pairs,
    cut_text,
    stratified,
    take_images,
)

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
Size = tuple[int, int]


def text_file(path: str) -> TextSplits:
    """One UTF-8 file, cut by position: 90, 5 and 5 % of the characters."""
    return TextSplits(*cut_text(_read(Path(path)), path), f"the file {Path(path).name}")


def pair_file(path: str) -> PairSplits:
    """Lines of source TAB target: one file, shuffled and cut 90/5/5 %, or a folder with a file a split."""
    place = Path(path)
    if place.is_dir():
        missing = [f"{name}.tsv" for name in SPLITS if not (place / f"{name}.tsv").is_file()]
        if missing:
            raise DataError(f"{path} has no {', '.join(missing)}: a folder of pairs has a file for each split")
        train, validation, test = (columns(_pairs(place / f"{name}.tsv")) for name in SPLITS)
    else:
        train, validation, test = cut_pairs(_pairs(place), path)
    return PairSplits(train, validation, test, f"the pairs in {place.name}")


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # a byte order mark is no part of the text
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start:,}): save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give the path of a text file") from error
    return text.replace("\r\n", "\n")


def _pairs(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(_read(path).rstrip("\n").split("\n"), start=1):
        source, tab, target = line.partition("\t")
        if not tab or "\t" in target or not source.strip() or not target.strip():
            raise DataError(
                f"line {number} of {path} is not a source, one tab and a target, but {line[:40]!r} "
                f"with {line.count(chr(9))} tabs"
            )
        pairs.append((source, target))
    return pairs


def image_folder(path: str, size: Size | None = None) -> ImageSplits:
    """Pictures in a sub-folder for each class, as uint8 with three channels.

    PATH/CLASS/* is cut 80, 10 and 10 % of each class. With PATH/train/CLASS/* there may also be
    PATH/validation and PATH/test; one that is missing is cut from train. size: (height, width) of the result.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path} is no folder: give one with a sub-folder of pictures for each class")
    given = {name: root / name for name in SPLITS if (root / name).is_dir()} if (root / "train").is_dir() else {}
    classes = _classes(given.get("train", root))
    if not given:
        pixels, labels = _load(root, classes, size)
        parts = [(pixels[i], labels[i]) for i in stratified(labels, classes)]
    else:
        loaded = {name: _load(folder, classes, size) for name, folder in given.items()}
        cut_missing(loaded, take_images)
        parts = [loaded[name] for name in SPLITS]
    train, validation, test = parts
    shapes = {part[0].shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(f"the pictures in {path} differ in size: say to which size they are to be resized")
    return ImageSplits(train, validation, test, tuple(classes), f"the pictures in {root.name}")


def _classes(folder: Path) -> list[str]:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no sub-folder"
        raise DataError(f"{folder} has {found}: it takes a sub-folder of pictures for each of two or more classes")
    return classes


def _load(folder: Path, classes: Sequence[str], size: Size | None) -> tuple[np.ndarray, np.ndarray]:
    """-> pictures uint8 [N, Y, X, 3], labels int32 [N], class by class and by name."""
    unknown = sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name not in classes and e.name[0] != ".")
    if unknown:
        raise DataError(f"{folder} has the class {unknown[0]!r}, which train has not: it has {', '.join(classes)}")
    files = [(file, label) for label, name in enumerate(classes) for file in _pictures(folder / name)]
    if not files:
        raise DataError(f"{folder} has no pictures: put files ({' '.join(PICTURES)}) into a sub-folder for each class")
    # TensorFlow decodes outside Python's lock, so threads help.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(pool.map(functools.partial(_decode, size=size), (file for file, _ in files)))
    for (file, _), picture in zip(files, decoded, strict=True):
        if picture.shape != decoded[0].shape:
            (rows, columns), (first_rows, first_columns) = picture.shape[:2], decoded[0].shape[:2]
            raise DataError(
                f"{file} has {rows} by {columns} pixels, {files[0][0].name} has {first_rows} by {first_columns}: "
                "say to which size all are to be resized"
            )
    return np.stack(decoded), np.array([label for _, label in files], np.int32)


def _pictures(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*") if f.suffix.lower() in PICTURES and not f.name.startswith("."))


def _decode(file: Path, size: Size | None) -> np.ndarray:
    """-> uint8 [Y, X, 3]; of an animation, the first picture."""
    import tensorflow as tf

    try:
        picture = tf.io.decode_image(file.read_bytes(), channels=3, expand_animations=False)
    except (tf.errors.InvalidArgumentError, OSError) as error:
        raise DataError(
            f"{file} is no readable picture: mend or remove it (PNG, JPEG, GIF and BMP are read)"
        ) from error
    return picture.numpy() if size is None else resize(picture.numpy(), size)


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [..., Y, X, C] -> uint8 [..., height, width, C], bilinear; shrinking averages all pixels."""
    import tensorflow as tf

    if pixels.shape[-3:-1] == tuple(size):
        return pixels
    resized = tf.image.resize(pixels, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8).numpy()
