"""Datasets by name: a bundled one that needs no network, your own files, or one of TensorFlow Datasets (TFDS).

    load_images("digits")  load_images("folder:photos", size=(64, 64))  load_images("mnist")
    load_text("pydocs")    load_text("file:book.txt")                   load_text("tiny_shakespeare")
    load_pairs("cldr")     load_pairs("file:pairs.tsv")                 load_pairs("multi30k")

Data that cannot be found or read raise DataError with one sentence.
"""

from kerasnets.data import bundled, files, prepared
from kerasnets.data.splits import DataError, ImageSplits, PairSplits, TextSplits

__all__ = [
    "DataError",
    "ImageSplits",
    "PairSplits",
    "TextSplits",
    "load_images",
    "load_pairs",
    "load_text",
]


def load_images(
    dataset: str,
    data_dir: str | None = None,
    size: tuple[int, int] | None = None,
    skip_unreadable: bool = False,
) -> ImageSplits:
    """Load images, each with a class.

    Args:
        dataset: "digits", "folder:PATH" (a subfolder for each class) or a TFDS name.
        data_dir: folder of TFDS datasets (default: TFDS_DATA_DIR, or TFDS's own folder).
        size: (height, width) to which images are resized; required if their sizes differ.
        skip_unreadable: whether to leave out the images of a folder that cannot be read; otherwise they are an error.
    """
    if dataset == "digits":
        return bundled.digits(size)
    if dataset.startswith("folder:"):
        return files.image_folder(dataset.removeprefix("folder:"), size, skip_unreadable)
    return prepared.images(dataset, data_dir, ("digits",), size)


def load_text(dataset: str, data_dir: str | None = None) -> TextSplits:
    """Load one text. dataset: "pydocs", "file:PATH" (UTF-8) or a TFDS name."""
    if dataset == "pydocs":
        return bundled.pydocs()
    if dataset.startswith("file:"):
        return files.text_file(dataset.removeprefix("file:"))
    return prepared.text(dataset, data_dir, ("pydocs",))


def load_pairs(dataset: str, data_dir: str | None = None, source: str = "en", target: str = "de") -> PairSplits:
    """Load sentences with translations.

    Args:
        dataset: "cldr", a TFDS name, or "file:PATH": lines of source TAB target, or a folder with train.tsv,
            validation.tsv and test.tsv; for files, the column order decides, not `source` and `target`.
        source, target: languages.
    """
    if dataset == "cldr":
        return bundled.cldr(source, target)
    if dataset.startswith("file:"):
        return files.pair_file(dataset.removeprefix("file:"))
    return prepared.pairs(dataset, data_dir, ("cldr",), source, target)
