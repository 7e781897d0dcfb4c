"""TensorFlow Datasets (TFDS): prepared datasets need no network; TFDS downloads the others."""

import contextlib
import difflib
import importlib
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerasnets.data import hugging_face
from kerasnets.data.splits import (
    SPLIT_NAMES,
    SPLITS,
    DataError,
    ImageSplits,
    LeftOut,
    Pairs,
    PairSplits,
    TextSplits,
    add_missing_splits,
    take_images,
    take_pairs,
)

CONNECT_TIMEOUT = 5.0  # seconds for a server to respond; TFDS itself retries for minutes
TFDS_STORE = "https://storage.googleapis.com"  # the usual source of datasets without a URL of their own
BATCH_SIZE = 1_000


def images(name: str, data_dir: str | None, bundled: tuple[str, ...], size: tuple[int, int] | None) -> ImageSplits:
    """Load a dataset with the features `image` and `label`. `add_missing_splits` adds missing splits."""
    builder = _builder(name, data_dir, bundled)
    _require(builder, name, ("image", "label"), "images with a class")
    image, label = builder.info.features["image"], builder.info.features["label"]
    if not hasattr(label, "names") or image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise DataError(
            f"{name!r} must have images of 8 bits, in gray or in colour, and named classes: choose another dataset"
        )
    classes = tuple(label.names)
    loaded = {split: _images(builder, name, tfds_split, size) for split, tfds_split in _splits(builder, name).items()}
    add_missing_splits(loaded, take_images)
    return ImageSplits(loaded["train"], loaded["validation"], loaded["test"], classes, *_describe(builder, name))


def text(name: str, data_dir: str | None, bundled: tuple[str, ...]) -> TextSplits:
    """Load a dataset with the feature `text`; documents are joined by an empty line.

    A missing split is the last 5 % of the remaining characters of train; test is cut before validation.
    """
    builder = _builder(name, data_dir, bundled)
    _require(builder, name, ("text",), "text")
    loaded = {
        split: "\n\n".join(_strings(builder, found, ("text",))[0]) for split, found in _splits(builder, name).items()
    }
    for split in ("test", "validation"):
        if split not in loaded:
            cut = len(loaded["train"]) * 95 // 100
            loaded["train"], loaded[split] = loaded["train"][:cut], loaded["train"][cut:]
    return TextSplits(loaded["train"], loaded["validation"], loaded["test"], *_describe(builder, name))


def pairs(name: str, data_dir: str | None, bundled: tuple[str, ...], source: str, target: str) -> PairSplits:
    """Load a dataset with a text feature for each language, such as TFDS's `Translation`.

    `add_missing_splits` adds missing splits.
    """
    builder = _builder(name, data_dir, bundled)
    _require(builder, name, (source, target), "sentences and translations in these languages")
    loaded: dict[str, Pairs] = {}
    for split, found in _splits(builder, name).items():
        sources, targets = _strings(builder, found, (source, target))
        loaded[split] = sources, targets
    add_missing_splits(loaded, take_pairs)
    return PairSplits(loaded["train"], loaded["validation"], loaded["test"], *_describe(builder, name))


def _builder(name: str, data_dir: str | None, bundled: tuple[str, ...]) -> Any:
    """-> the dataset's builder; download and prepare the dataset first if needed."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{name!r} is not a bundled dataset ({', '.join(bundled)}), and TensorFlow Datasets is not installed: "
            "install tensorflow-datasets"
        ) from error
    directory = data_dir or os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")
    if name.startswith(hugging_face.PREFIX):
        with _suppress_warnings():
            return hugging_face.builder(name, directory, _reachable)
    importlib.import_module("kerasnets.data.multi30k")  # registers its builder
    try:
        with _suppress_warnings():
            builder = tfds.builder(name, data_dir=directory)
            prepared = builder.is_prepared()
    except (tfds.core.DatasetNotFoundError, ValueError, KeyError) as error:
        raise DataError(_unknown_dataset(name, directory, bundled, tfds.list_builders())) from error
    if not prepared:
        _download(builder, name, directory, bundled)
    return builder


@contextlib.contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppress TFDS's warning that a dataset is missing: the caller downloads it or raises an error."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _unknown_dataset(name: str, directory: str, bundled: tuple[str, ...], tfds_names: list[str]) -> str:
    prepared = prepared_datasets(directory)
    close = difflib.get_close_matches(name, {*bundled, *prepared, *tfds_names}, n=3)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    listed = ", ".join(prepared) or "none"
    return (
        f"no dataset is called {name!r}{hint}: bundled are {', '.join(bundled)}, prepared in {directory} "
        f"are {listed}; with a network, any name of TensorFlow Datasets may be used"
    )


def prepared_datasets(directory: str) -> list[str]:
    """-> names of the datasets in a TFDS folder, read from its files only."""
    paths = [info.relative_to(directory).parts for info in Path(directory).glob("*/**/dataset_info.json")]
    names = {f"{hugging_face.PREFIX}{path[1]}" if path[0] == hugging_face.FOLDER else path[0] for path in paths}
    return sorted(names)


def _download(builder: Any, name: str, directory: str, bundled: tuple[str, ...]) -> None:
    hosts = {urllib.parse.urlsplit(url).hostname or "" for url in builder.url_infos or (TFDS_STORE,)}
    prepared = ", ".join(prepared_datasets(directory)) or "none"
    advice = (
        f"run `tfds build {name}` where there is a network and give its folder as the data folder, "
        f"or use {', '.join(bundled)} (bundled) or a prepared one ({prepared})"
    )
    unreachable = [host for host in sorted(hosts - {""}) if not _reachable(host)]
    if unreachable:
        raise DataError(f"{name!r} is not in {directory}, and {unreachable[0]} cannot be reached: {advice}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # the datasets' own code, by hundreds of authors, may raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{name!r} could not be downloaded to {directory} ({reason[0][:200]}): {advice}") from error


def _reachable(host: str) -> bool:
    """-> whether the host can be reached; True with a proxy, which may reach more hosts than this machine."""
    if urllib.request.getproxies():
        return True
    reached = threading.Event()

    def connect() -> None:
        for port in (443, 80):
            try:
                socket.create_connection((host, port), CONNECT_TIMEOUT).close()
                reached.set()
                return
            except OSError:
                continue

    # A name lookup has no timeout of its own, hence the thread.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    return reached.is_set()


def _require(builder: Any, name: str, wanted: tuple[str, ...], content: str) -> None:
    features = builder.info.features
    available = list(features) if hasattr(features, "keys") else []
    missing = [feature for feature in wanted if feature not in available]
    if missing:
        raise DataError(
            f"{name!r} has no feature {' and no '.join(map(repr, missing))}, only {', '.join(available)}: "
            f"a dataset with {content} is needed"
        )


def _splits(builder: Any, name: str) -> dict[str, str]:
    """-> {our name of a split: the dataset's name}."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        candidates = [other for other in names if other in builder.info.splits]
        if candidates:
            found[split] = candidates[0]
    if "train" not in found:
        raise DataError(f"{name!r} has no split 'train', only {', '.join(builder.info.splits)}: choose another dataset")
    return found


def _read(builder: Any, split: str) -> Any:
    """-> a tf.data.Dataset of the split, always in the same order."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(split=split, shuffle_files=False, read_config=tfds.ReadConfig(try_autocache=False))


def _images(builder: Any, name: str, split: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """-> images uint8 [N, Y, X, C], labels int32 [N], decoded by several threads."""
    import tensorflow as tf

    shape = builder.info.features["image"].shape
    if size is None and None in shape[:2]:
        raise DataError(f"the images of {name!r} differ in size: give the size to resize them to")

    def prepare(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = example["image"]
        if size is not None and tuple(size) != tuple(shape[:2]):
            resized = tf.round(tf.image.resize(image, size, antialias=True))
            image = tf.cast(tf.clip_by_value(resized, 0, 255), tf.uint8)
        return image, tf.cast(example["label"], tf.int32)

    batches = _read(builder, split).map(prepare, tf.data.AUTOTUNE).batch(BATCH_SIZE).prefetch(2)
    pixels, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def _strings(builder: Any, split: str, features: tuple[str, ...]) -> list[list[str]]:
    """-> the texts of all examples for each feature."""
    columns: list[list[str]] = [[] for _ in features]
    for batch in _read(builder, split).batch(BATCH_SIZE).as_numpy_iterator():
        for column, feature in zip(columns, features, strict=True):
            column += [value.decode("utf-8") for value in batch[feature]]
    return columns


def _describe(builder: Any, name: str) -> tuple[str, tuple[LeftOut, ...]]:
    """-> a description of the dataset; its unused splits."""
    found = _splits(builder, name)
    cut = [split for split in SPLITS if split not in found]
    note = f"; {' and '.join(cut)} cut from its train split" if cut else ""
    unused = tuple(split for split in builder.info.splits if split not in found.values())
    left_out = (LeftOut("splits", "of other names", len(unused), unused),) if unused else ()
    return f"{name} {builder.version} of TensorFlow Datasets{note}", left_out
