"""Loaded data: in three splits; and the rules by which data are split.

Small data are in memory: images as uint8 (CIFAR-10 takes 185 MB), texts as str. A user's own large files are read when
their examples are needed, by `TextFile`, `PairFile` and `ImageFiles`, which stand in the place of str, list and array.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from kerasnets.checks import RequestError

# Common names of the splits; upper or lower case. "eval" is test, or validation if there is also a test split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
Images = tuple[Any, np.ndarray]  # images uint8 [N, Y, X, C], an array or `ImageFiles`; labels int32 [N]
Pairs = tuple[Sequence[str], Sequence[str]]  # sources, targets: lists or `Sentences`
Part = TypeVar("Part", Images, Pairs)
SPLITS = ("train", "validation", "test")
MAX_NAMES = 3  # names of left-out items in a message
MAX_CLASSES = 10  # with more, `DataSummary` does not list each class
BLOCK = 1 << 16  # characters that `blocks` reads at once
SEED = 0  # the splits of a dataset must not depend on the seed of a training run


class DataError(RequestError):
    """Data cannot be found or read. The message is one sentence: the value, the allowed values and a remedy."""


class Text(Protocol):
    """A text: a str, or a `TextFile`. `str(text)` reads its characters."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> "Text": ...

    def count(self, text: str, /) -> int: ...


def blocks(text: Text) -> Iterator[str]:
    """-> the text in parts that fit into memory."""
    for start in range(0, len(text), BLOCK):
        yield str(text[start : start + BLOCK])


@dataclass(frozen=True)
class LeftOut:
    """Items that were left out for one reason.

    Attributes:
        what: kind of items, in the plural: "files".
        why: reason: "of other formats".
        count: number of items.
        names: names of the items, if they have names.
        total: number of items that were checked, if useful.
    """

    what: str
    why: str
    count: int
    names: tuple[str, ...] = ()
    total: int | None = None

    def __str__(self) -> str:
        """-> "3 of other formats (a.tif, b.txt, c.heic)", with only the first of many names."""
        among = "" if self.total is None else f" of {self.total:,}"
        more = f" and {self.count - MAX_NAMES:,} more" if self.count > MAX_NAMES else ""
        names = f" ({', '.join(self.names[:MAX_NAMES])}{more})" if self.names else ""
        return f"{self.count:,}{among} {self.why}{names}"


@dataclass(frozen=True)
class DataSummary:
    """Summary of a loaded dataset: "20 images in 2 classes (blue 10, red 10)", and the items left out."""

    text: str
    left_out: tuple[LeftOut, ...] = ()

    def __str__(self) -> str:
        parts = [self.text]
        for what in dict.fromkeys(item.what for item in self.left_out):
            reasons = [item for item in self.left_out if item.what == what]
            total = sum(item.count for item in reasons)
            noun = what.removesuffix("s") if total == 1 else what
            parts.append(f"{total:,} {noun} left out: {', '.join(map(str, reasons))}")
        return "; ".join(parts)

    def record(self) -> dict[str, Any]:
        """-> {"read": text, "left_out": {"files of other formats": 3, ...}}, for metrics.json and the model card."""
        return {"read": self.text, "left_out": {f"{item.what} {item.why}": item.count for item in self.left_out}}


class Splits(Protocol):
    """The interface of the results of all sources."""

    @property
    def train(self) -> Any: ...

    @property
    def validation(self) -> Any: ...

    @property
    def test(self) -> Any: ...

    @property
    def description(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels; () for data without classes."""

    @property
    def summary(self) -> DataSummary: ...

    def count(self, split: str) -> int:
        """-> the number of examples of a split: images, characters or pairs."""

    def first(self, count: int | None) -> Self:
        """-> splits with at most the first `count` examples of each; None: all."""


class Columns:
    """Splits whose examples are stored in parallel columns: arrays or lists of the same length."""

    def count(self, split: str) -> int:
        return len(getattr(self, split)[1])

    def first(self, count: int | None) -> Self:
        parts = {name: tuple(column[:count] for column in getattr(self, name)) for name in SPLITS}
        return dataclasses.replace(self, **parts)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class ImageSplits(Columns):
    """Images uint8 [N, Y, X, C] and labels int32 [N], indices into `classes`. `np.asarray` reads images."""

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    description: str
    left_out: tuple[LeftOut, ...] = ()

    @property
    def summary(self) -> DataSummary:
        labels = np.concatenate([part[1] for part in (self.train, self.validation, self.test)])
        counts = np.bincount(labels, minlength=len(self.classes))
        many = len(self.classes) > MAX_CLASSES
        each = ", ".join(f"{name} {count:,}" for name, count in zip(self.classes, counts, strict=True))
        each = f"{counts.min():,} to {counts.max():,} each" if many else each
        return DataSummary(f"{counts.sum():,} images in {len(self.classes)} classes ({each})", self.left_out)


@dataclass(frozen=True, eq=False)
class TextSplits:
    """Three texts. `parts` gives the range of characters of each in the whole text."""

    train: Text
    validation: Text
    test: Text
    description: str
    left_out: tuple[LeftOut, ...] = ()
    classes: ClassVar[tuple[str, ...]] = ()
    parts: dict[str, str] = field(init=False)

    @property
    def summary(self) -> DataSummary:
        texts = self.train, self.validation, self.test
        lines = sum(text.count("\n") for text in texts)
        return DataSummary(f"{sum(map(len, texts)):,} characters in {lines:,} lines", self.left_out)

    def __post_init__(self) -> None:
        total = len(self.train) + len(self.validation) + len(self.test)
        parts, start = {}, 0
        for name in SPLITS:
            stop = start + len(getattr(self, name))
            parts[name] = f"characters {start:,} to {stop:,} of {total:,}"
            start = stop
        object.__setattr__(self, "parts", parts)

    def count(self, split: str) -> int:
        return len(getattr(self, split))

    def first(self, count: int | None) -> Self:
        return dataclasses.replace(self, **{name: getattr(self, name)[:count] for name in SPLITS})


@dataclass(frozen=True, eq=False)
class PairSplits(Columns):
    """Sentences and their translations: (sources, targets) in each split."""

    train: Pairs
    validation: Pairs
    test: Pairs
    description: str
    left_out: tuple[LeftOut, ...] = ()
    classes: ClassVar[tuple[str, ...]] = ()

    @property
    def summary(self) -> DataSummary:
        total = sum(len(part[0]) for part in (self.train, self.validation, self.test))
        return DataSummary(f"{total:,} pairs of sentences", self.left_out)


def match_split_names(names: Sequence[str], location: str) -> dict[str, str]:
    """Names of splits -> {our name of a split: its name in `names`}.

    Raises: DataError if a name is unknown, or if two names mean the same split.
    """
    found: dict[str, str] = {}
    # "eval" is last: its meaning depends on the others.
    for name in sorted(names, key=lambda name: (name.lower() == "eval", name)):
        matches = [split for split, others in SPLIT_NAMES.items() if name.lower() in others]
        if name.lower() == "eval" and "test" in found:
            matches = ["validation"]
        if not matches:
            allowed = ", ".join(other for others in SPLIT_NAMES.values() for other in others)
            raise DataError(
                f"{location} has {name!r} beside its splits: only {allowed} are allowed; move it away, or, if "
                "the name of a split is the name of a class, put all classes into a folder train"
            )
        if matches[0] in found:
            raise DataError(f"{location} has both {found[matches[0]]!r} and {name!r}, for one split: keep one of them")
        found[matches[0]] = name
    if "train" not in found:
        raise DataError(
            f"{location} has {' and '.join(found.values())}, but no 'train': name the training split 'train'"
        )
    return found


def describe(data: Splits, sizes: dict[str, int], summary: DataSummary) -> dict[str, Any]:
    """-> the sizes of the splits, their source and the items left out, for metrics.json."""
    return sizes | {"description": data.description} | summary.record()


def split_text(text: Text, name: str) -> tuple[Text, Text, Text]:
    """Split a text by position: the first 90 % of the characters, the next 5 %, the last 5 %."""
    if len(text) < 100:
        raise DataError(f"{name} has {len(text)} characters: a text needs at least 100 to be split in three")
    first, second = len(text) * 90 // 100, len(text) * 95 // 100
    if not any(block.strip() for block in blocks(text[:first])):
        raise DataError(f"{name} has only white space in the first 90 %, the training split: give another text")
    return text[:first], text[first:second], text[second:]


def fixed_permutation(count: int) -> np.ndarray:
    """-> a fixed permutation of 0..count-1."""
    return np.random.default_rng(SEED).permutation(count)


def unzip_pairs(pairs: Sequence[tuple[str, str]]) -> Pairs:
    """A list of pairs -> all sources and all targets."""
    return [source for source, _ in pairs], [target for _, target in pairs]


def hold_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide a split in two; -> indices (kept, held out), both in ascending order.

    Hold out 5,000 or a tenth, whichever is smaller: the last of the shuffled order.
    """
    order = fixed_permutation(count)
    size = min(5_000, max(1, count // 10))
    return np.sort(order[:-size]), np.sort(order[-size:])


def add_missing_splits(loaded: dict[str, Part], take: Callable[[Part, np.ndarray], Part]) -> None:
    """Hold out missing splits from train, in place. take: (split, indices) -> the examples with these indices."""
    for name in ("test", "validation"):
        if name not in loaded:
            train = loaded["train"]
            kept, held_out = hold_out(len(train[1]))
            loaded["train"], loaded[name] = take(train, kept), take(train, held_out)


def take_images(part: Images, indices: np.ndarray) -> Images:
    return part[0][indices], part[1][indices]


def take_pairs(part: Pairs, indices: np.ndarray) -> Pairs:
    return [part[0][i] for i in indices], [part[1][i] for i in indices]


def stratified_split(labels: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> the indices of each split: 80 %, 10 % and 10 % of every class, at least one each."""
    parts: tuple[list, list, list] = ([], [], [])
    random = np.random.default_rng(SEED)
    for label, name in enumerate(classes):
        indices = random.permutation(np.flatnonzero(labels == label))
        if len(indices) < 3:
            raise DataError(
                f"class {name!r} has {len(indices)} images: there must be at least 3, one for each split, or "
                "folders train, val and test that you fill yourself"
            )
        size = max(1, len(indices) // 10)
        for part, cut in zip(parts, np.split(indices, [len(indices) - 2 * size, len(indices) - size]), strict=True):
            part.append(cut)
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test
