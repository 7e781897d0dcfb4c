"""The licences of datasets, and their sources."""

import json
import os
from pathlib import Path
from typing import NamedTuple


class Licence(NamedTuple):
    """`terms` of use and the `source`, a URL, that states them; None if unknown."""

    terms: str
    source: str | None


UNKNOWN = Licence("unknown", None)
LICENCES = {
    "digits": Licence(
        "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998)",
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    ),
    "pydocs": Licence(
        "Python Software Foundation License Version 2; code in it also Zero-Clause BSD",
        "https://docs.python.org/3/license.html",
    ),
    "cldr": Licence(
        "Unicode License (the names and patterns of CLDR, by way of Babel); number words by num2words, LGPL 2.1",
        "https://www.unicode.org/license.txt",
    ),
    "mnist": Licence("CC BY-SA 3.0 (Y. LeCun and C. Cortes)", "https://keras.io/api/datasets/mnist/"),
    "cifar10": Licence(
        "none is stated; the authors ask to cite Krizhevsky 2009", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "multi30k": Licence(
        "as Flickr30k: research and education that is not commercial", "https://github.com/multi30k/dataset"
    ),
    "tiny_shakespeare": Licence("public domain (plays of W. Shakespeare)", "https://github.com/karpathy/char-rnn"),
}


def find(dataset: str, data_dir: str | None = None) -> Licence:
    """-> the licence of a dataset by its name for `--dataset`; UNKNOWN for a user's own data.

    For a TensorFlow Datasets name that is not in the table, the licence is read from the prepared files, if stated.
    """
    name = dataset.partition("/")[0].partition(":")[0]
    if dataset.startswith(("file:", "folder:")):
        return UNKNOWN
    return LICENCES.get(name) or read_prepared_licence(name, data_dir)


def read_prepared_licence(name: str, data_dir: str | None) -> Licence:
    """-> the licence in `dataset_info.json` of a prepared dataset (tfds.core.DatasetInfo.redistribution_info)."""
    directory = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    for file in sorted((directory / name).glob("**/dataset_info.json"), reverse=True):
        info = json.loads(file.read_text("utf-8"))
        terms = info.get("redistributionInfo", {}).get("license", "")
        if terms:
            return Licence(terms, next(iter(info.get("location", {}).get("urls", [])), None))
    return UNKNOWN
