"""Datasets that need no download: they come with installed packages."""

import platform

import numpy as np

from kerasnets.data import cldr as sentences
from kerasnets.data.splits import (
    DataError,
    ImageSplits,
    PairSplits,
    TextSplits,
    split_text,
    stratified_split,
    unzip_pairs,
)


def digits(size: tuple[int, int] | None = None) -> ImageSplits:
    """scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, 80/10/10 % of each class."""
    from sklearn.datasets import load_digits

    dataset = load_digits()
    pixels = np.round(dataset.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = dataset.target.astype(np.int32)
    classes = tuple(str(name) for name in dataset.target_names)
    if size is not None:
        from kerasnets.data.files import resize  # imports TensorFlow

        pixels = resize(pixels, size)
    train, validation, test = ((pixels[i], labels[i]) for i in stratified_split(labels, classes))
    return ImageSplits(train, validation, test, classes, "1,797 handwritten digits of 8 by 8 pixels, from scikit-learn")


def pydocs() -> TextSplits:
    """The topics of Python's own help, sorted by name and joined, 90/5/5 % of the characters."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"
    description = f"the language reference in Python {platform.python_version()}'s own help (pydoc_data.topics)"
    return TextSplits(*split_text(text, "pydocs"), description)


def cldr(source: str, target: str) -> PairSplits:
    """Numbers, dates, times, amounts and short sentences with them, written out in English and German."""
    if {source, target} != {"en", "de"}:
        raise DataError(
            f"cldr has English and German: it cannot translate from {source!r} to {target!r}, only en to de or de to en"
        )
    pairs = sentences.pairs()
    if source == "de":
        pairs = list({german: (german, english) for english, german in pairs}.values())
    held_out = 500
    test, validation, train = pairs[:held_out], pairs[held_out : 2 * held_out], pairs[2 * held_out :]
    return PairSplits(unzip_pairs(train), unzip_pairs(validation), unzip_pairs(test), sentences.description())
