"""The user's own data: a text, pairs of sentences, images in a folder for each class."""

import functools
import os
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerasnets.data import image_files
from kerasnets.data.image_files import ImageFiles, Size
from kerasnets.data.pair_file import PairFile, complete_splits, split_pairs
from kerasnets.data.splits import (
    SPLIT_NAMES,
    SPLITS,
    DataError,
    DataSummary,
    Images,
    ImageSplits,
    LeftOut,
    PairSplits,
    TextSplits,
    add_missing_splits,
    match_split_names,
    split_text,
    stratified_split,
    take_images,
)
from kerasnets.data.text_file import read_text

# Extensions of image files; their content may be any format of the decoder.
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".gif", ".bmp", ".dib", ".webp")
SYSTEM_FILES = ("thumbs.db", "desktop.ini", ".ds_store", "__macosx")  # files and folders of operating systems
MAX_ERRORS = 3  # invalid lines or images that an error shows


def text_file(path: str) -> TextSplits:
    """Load one UTF-8 file, split by position: 90, 5 and 5 % of the characters."""
    return TextSplits(*split_text(read_text(Path(path)), path), f"the file {Path(path).name}")


def pair_file(path: str) -> PairSplits:
    """Load lines of source TAB target: one file, shuffled and split 90/5/5 %, or a folder with one file per split.

    `SPLIT_NAMES` lists the names of the files. A missing split is held out from train. Blank lines are left out.
    """
    location = Path(path)
    blank: list[str] = []
    others: list[str] = []
    if location.is_dir():
        files = sorted(file for file in location.iterdir() if file.is_file() and not _is_hidden(file.name))
        tables = {file.stem: file for file in files if file.suffix.lower() == ".tsv"}
        others = [file.name for file in files if file not in tables.values()]
        if not tables:
            raise DataError(
                f"{path} has no file train.tsv: a folder of pairs has train.tsv and perhaps val.tsv, test.tsv"
            )
        names = match_split_names(list(tables), path)
        parts = complete_splits({split: PairFile(tables[name], blank) for split, name in names.items()}, path)
    else:
        parts = split_pairs(PairFile(location, blank))
    left_out = _left_out_items({("lines", "without anything"): blank, ("files", "of other formats"): others})
    return PairSplits(*parts, f"the pairs in {location.name}", left_out)


def _left_out_items(names: dict[tuple[str, str], list[str]]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(what, why, len(items), tuple(items)) for (what, why), items in names.items() if items)


@dataclass
class _FolderScan:
    """Search a folder for images, and record the files that are left out, as paths relative to the folder."""

    root: Path
    outside: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def left_out(self) -> tuple[LeftOut, ...]:
        return _left_out_items(
            {
                ("files", "of other formats"): self.others,
                ("files", "unreadable"): self.unreadable,
                ("files", "beside the classes"): self.outside,
                ("files", "hidden"): self.hidden,
            }
        )

    def folders(self, folder: Path) -> list[str]:
        """-> names of the folders in a folder; record its files as left out, since they have no class."""
        entries = sorted(entry for entry in folder.iterdir() if entry.name.lower() not in SYSTEM_FILES)
        self.hidden += [self.name(entry) for entry in entries if _is_hidden(entry.name)]
        self.outside += [self.name(entry) for entry in entries if not entry.is_dir() and not _is_hidden(entry.name)]
        return [entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)]

    def images(self, folder: Path) -> Iterator[Path]:
        """-> the image files in a folder and its subfolders."""
        # Links to the parents would lead to other classes.
        seen = set(map(str, Path(os.path.realpath(folder)).parents))
        for current, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(current)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            entries = sorted(name for name in (*folders, *files) if name.lower() not in SYSTEM_FILES)
            self.hidden += [self.name(Path(current, name)) for name in entries if _is_hidden(name)]
            folders[:] = [name for name in entries if name in folders and not _is_hidden(name)]
            for name in entries:
                if _is_hidden(name) or name in folders:
                    continue
                if Path(name).suffix.lower() in IMAGE_EXTENSIONS:
                    yield Path(current, name)
                else:
                    self.others.append(self.name(Path(current, name)))


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def image_folder(path: str, size: Size | None = None, skip_unreadable: bool = False) -> ImageSplits:
    """Load images in a folder for each class, and in its subfolders, as uint8 with three channels.

    PATH/CLASS/* is split 80, 10 and 10 % of each class. Beside PATH/train/CLASS/* there may be a folder for validation
    and one for test (`SPLIT_NAMES`); a missing one is held out from train.

    Args: size: (height, width) of the result; skip_unreadable: whether to leave out images that cannot be read.
    Raises: DataError for a folder of another structure, and for unreadable images.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path} is not a folder; it must have a subfolder of images for each class")
    scan = _FolderScan(root)
    folders = scan.folders(root)
    splits_of_folders = [
        next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None) for name in folders
    ]
    has_splits = "train" in splits_of_folders or (folders and None not in splits_of_folders)
    try:
        if has_splits:
            classes, parts = _split_folders(scan, match_split_names(folders, path), size)
        else:
            classes = _check_classes(root, folders)
            pixels, labels = _load_images(root, classes, size, scan)
            parts = [(pixels[i], labels[i]) for i in stratified_split(labels, classes)]
    except DataError as error:
        raise DataError(str(DataSummary(str(error), scan.left_out()))) from error  # the left-out files may be the cause
    if scan.unreadable and not skip_unreadable:
        raise DataError(_unreadable_images(path, scan.unreadable, sum(len(labels) for _, labels in parts)))
    train, validation, test = parts
    shapes = {part[0].shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(f"the images in {path} differ in size: give the size to resize them to")
    return ImageSplits(train, validation, test, tuple(classes), f"the images in {root.name}", scan.left_out())


def _unreadable_images(path: str, errors: list[str], readable: int) -> str:
    more = f"; and {len(errors) - MAX_ERRORS:,} more" if len(errors) > MAX_ERRORS else ""
    return (
        f"{len(errors):,} of {len(errors) + readable:,} images in {path} cannot be read: "
        f"{'; '.join(errors[:MAX_ERRORS])}{more}: repair or remove them, or leave them out with --skip-unreadable"
    )


def _split_folders(scan: _FolderScan, names: dict[str, str], size: Size | None) -> tuple[list[str], list[Images]]:
    """names: {split: its folder} -> the classes; train, validation and test."""
    folders = {split: scan.root / name for split, name in names.items()}
    classes = _check_classes(folders["train"], scan.folders(folders["train"]))
    loaded = {}
    for split, folder in folders.items():
        if split != "train":
            _require_known_classes(folder, scan.folders(folder), classes)
        loaded[split] = _load_images(folder, classes, size, scan)
    missing = set(range(len(classes))) - set(loaded["train"][1].tolist())
    if missing:
        raise DataError(
            f"{folders['train']} has no images of the class {classes[min(missing)]!r}: add some or remove it"
        )
    add_missing_splits(loaded, take_images)
    return classes, [loaded[name] for name in SPLITS]


def _check_classes(folder: Path, classes: list[str]) -> list[str]:
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no subfolder"
        raise DataError(f"{folder} has {found}: it must have a subfolder of images for each of two or more classes")
    for name in classes:
        if {unicodedata.category(character) for character in name} & {"Cc", "Cs"}:
            raise DataError(f"{folder} has the class {name!r}: rename it, in UTF-8 and without control characters")
    return classes


def _require_known_classes(folder: Path, names: list[str], classes: Sequence[str]) -> None:
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f"{folder} has the class {unknown[0]!r}, which train does not have: it has {', '.join(classes)}"
        )


def _load_images(folder: Path, classes: Sequence[str], size: Size | None, scan: _FolderScan) -> Images:
    """-> pixels uint8 [N, Y, X, 3], labels int32 [N], sorted by class and name, without unreadable files."""
    files = [(file, label) for label, name in enumerate(classes) for file in sorted(scan.images(folder / name))]
    if not files:
        raise DataError(
            f"{folder} has no images: put files ({' '.join(IMAGE_EXTENSIONS)}) into a subfolder for each class"
        )
    paths = [file for file, _ in files]
    streamed = len(files) * _first_image_size(paths, size) > image_files.MEMORY_LIMIT
    decoded: list[Any]
    if streamed:
        decoded = image_files.examine_all([str(path) for path in paths], size)
    else:  # TensorFlow releases the GIL while it decodes
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = list(pool.map(functools.partial(_decode_file, size=size), paths))
    errors = [
        f"{scan.name(file)} {error}" for (file, _), error in zip(files, decoded, strict=True) if isinstance(error, str)
    ]
    scan.unreadable += errors
    if len(errors) == len(files):
        raise DataError(f"none of the {len(files):,} images in {folder} can be read: repair or replace them")
    read = [(*file, image) for file, image in zip(files, decoded, strict=True) if not isinstance(image, str)]
    (first, _, first_image), *_ = read
    for file, _, image in read:
        if image.shape != first_image.shape:
            raise DataError(
                f"{file} has {image.shape[0]} by {image.shape[1]} pixels, {first.name} has {first_image.shape[0]} by "
                f"{first_image.shape[1]}: give the size to resize them to"
            )
    images = [image for _, _, image in read]
    labels = np.array([label for _, label, _ in read], np.int32)
    return (ImageFiles(images, size) if streamed else np.stack(images)), labels


def _first_image_size(paths: Sequence[Path], size: Size | None) -> int:
    """-> the bytes in memory of the first image that can be decoded; 0 if there is none."""
    images = (_decode_file(path, size) for path in paths)
    return next((image.size for image in images if isinstance(image, np.ndarray)), 0)


def _decode_file(file: Path, size: Size | None) -> np.ndarray | str:
    """-> uint8 [Y, X, 3], decoded as in a server; or a description of the error."""
    from kerasnets.images.decoder import ImageError, read  # imports TensorFlow

    try:
        image = read(file.read_bytes())
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return image if size is None else resize(image, size)


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [..., Y, X, C] -> uint8 [..., height, width, C], bilinear; shrinking averages all pixels."""
    from kerasnets.images import batch  # imports TensorFlow

    return pixels if pixels.shape[-3:-1] == tuple(size) else batch.resize(pixels, size).numpy()
