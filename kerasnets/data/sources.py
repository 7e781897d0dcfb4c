"""Data by name: a bundled set that needs no network, your own files, or a set of TensorFlow Datasets (TFDS).

    load_images("digits")  load_images("folder:photos", size=(64, 64))  load_images("mnist")
    load_text("pydocs")    load_text("file:book.txt")                   load_text("tiny_shakespeare")
    load_pairs("cldr")     load_pairs("file:pairs.tsv")                 load_pairs("multi30k")

Whatever cannot be had or read raises DataError with one sentence.
"""

from kerasnets.data import bundled, files, prepared
from kerasnets.data.splits import DataError, ImageSplits, PairSplits, TextSplits

__all__ = [
    "BUNDLED",
    "DataError",
    "ImageSplits",
    "PairSplits",
    "TextSplits",
    "load_images",
    "load_pairs",
    "load_text",
]

BUNDLED = {"image_classification": ("digits",), "text_generation": ("pydocs",), "translation": ("cldr",)}
OWN = {
    "image_classification": ("folder:",),
    "text_generation": ("file:",),
    "translation": ("file:",),
}


def load_images(dataset: str, data_dir: str | None = None, size: tuple[int, int] | None = None) -> ImageSplits:
    """Pictures with a class each.

    Args:
        dataset: "digits", "folder:PATH" (a sub-folder for each class) or a TFDS name.
        data_dir: of TFDS sets; when not given, TFDS_DATA_DIR says, or TFDS's own folder.
        size: (height, width) to which pictures are resized; needed where they differ.
    """
    _check("image_classification", dataset)
    if dataset == "digits":
        return bundled.digits(size)
    if dataset.startswith("folder:"):
        return files.image_folder(dataset.removeprefix("folder:"), size)
    return prepared.images(dataset, data_dir, BUNDLED["image_classification"], size)


def load_text(dataset: str, data_dir: str | None = None) -> TextSplits:
    """One text. dataset: "pydocs", "file:PATH" (UTF-8) or a TFDS name."""
    _check("text_generation", dataset)
    if dataset == "pydocs":
        return bundled.pydocs()
    if dataset.startswith("file:"):
        return files.text_file(dataset.removeprefix("file:"))
    return prepared.text(dataset, data_dir, BUNDLED["text_generation"])


def load_pairs(dataset: str, data_dir: str | None = None, source: str = "en", target: str = "de") -> PairSplits:
    """Sentences with translations.

    Args:
        dataset: "cldr", a TFDS name, or "file:PATH": lines of source TAB target, or a folder with train.tsv,
            validation.tsv and test.tsv; there, the columns and not `source` and `target` say which is which.
        source, target: languages.
    """
    _check("translation", dataset)
    if dataset == "cldr":
        return bundled.cldr(source, target)
    if dataset.startswith("file:"):
        return files.pair_file(dataset.removeprefix("file:"))
    return prepared.pairs(dataset, data_dir, BUNDLED["translation"], source, target)


def _check(task: str, dataset: str) -> None:
    """Refuse what belongs to another task or is no form that any task knows."""
    bundled_here, (own,) = BUNDLED[task], OWN[task]
    for other, names in BUNDLED.items():
        if other != task and dataset in names:
            raise DataError(f"{dataset!r} is for {other}: the bundled set for {task} is {', '.join(bundled_here)}")
    if dataset.startswith(("file:", "folder:")) and not dataset.startswith(own):
        form = dataset.partition(":")[0]
        raise DataError(f"{form + ':'!r} is not for {task}: your own data is given as {own}PATH")
    if not dataset.removeprefix(own):
        raise DataError(f"no data set given: name {', '.join(bundled_here)}, {own}PATH or a set of TensorFlow Datasets")
