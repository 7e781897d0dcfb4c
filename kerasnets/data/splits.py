"""What every source returns: plain data in memory, in three splits, and the rules by which splits are cut.

All of a set is held in memory: pictures as uint8 (CIFAR-10 takes 185 MB), text as str. A set that does not
fit is not for these loaders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Images = tuple[np.ndarray, np.ndarray]  # pictures uint8 [N, Y, X, C], labels int32 [N]
Pairs = tuple[list[str], list[str]]  # sources, targets
Part = TypeVar("Part", Images, Pairs)
SPLITS = ("train", "validation", "test")
SEED = 0  # the cut of a set must not depend on the seed of a training run


class DataError(ValueError):
    """Data that cannot be had or read: one sentence with what was given, what is allowed and what to do."""


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """Pictures uint8 [N, Y, X, C] and labels int32 [N], the places in `classes`."""

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    description: str


@dataclass(frozen=True, eq=False)
class TextSplits:
    """Three texts. `parts` says which characters of the whole text each is."""

    train: str
    validation: str
    test: str
    description: str
    parts: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        total = len(self.train) + len(self.validation) + len(self.test)
        parts, start = {}, 0
        for name in SPLITS:
            stop = start + len(getattr(self, name))
            parts[name] = f"characters {start:,} to {stop:,} of {total:,}"
            start = stop
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True, eq=False)
class PairSplits:
    """Sentences and their translations: (sources, targets) in each split."""

    train: Pairs
    validation: Pairs
    test: Pairs
    description: str


def cut_text(text: str, name: str) -> tuple[str, str, str]:
    """By position: the first 90 % of the characters, the next 5 %, the last 5 %."""
    if len(text) < 100:
        raise DataError(f"{name} has {len(text)} characters: a text needs at least 100 to be split in three")
    first, second = len(text) * 90 // 100, len(text) * 95 // 100
    return text[:first], text[first:second], text[second:]


def shuffled(count: int) -> np.ndarray:
    """The order 0..count-1, shuffled, always in the same way."""
    return np.random.default_rng(SEED).permutation(count)


def columns(pairs: Sequence[tuple[str, str]]) -> Pairs:
    """Pairs one by one -> all sources and all targets."""
    return [source for source, _ in pairs], [target for _, target in pairs]


def cut_pairs(pairs: Sequence[tuple[str, str]], name: str) -> tuple[Pairs, Pairs, Pairs]:
    """Shuffled, then 90 %, 5 % and 5 % of the different sources, but at least one in each.

    All pairs of a source go into one split: a sentence that is scored was never trained on.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0], []).append(pair)
    sources = list(groups.values())
    if len(sources) < 3:
        raise DataError(
            f"{name} has {len(sources)} different sentences to translate: it takes at least 3, one for each split"
        )
    order = shuffled(len(sources))
    held_out = max(1, len(sources) // 20)
    cuts = np.split(order, [len(sources) - 2 * held_out, len(sources) - held_out])
    train, validation, test = (columns([pair for i in cut for pair in sources[i]]) for cut in cuts)
    return train, validation, test


def hold_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of a split that has to give a second one: (kept, held out), both in ascending order.

    Held out are 5,000 or a tenth, whichever is smaller: the last of the shuffled order.
    """
    order = shuffled(count)
    size = min(5_000, max(1, count // 10))
    return np.sort(order[:-size]), np.sort(order[-size:])


def cut_missing(loaded: dict[str, Part], take: Callable[[Part, np.ndarray], Part]) -> None:
    """Cut the splits that are not there from train, in place. take: (split, places) -> those examples of it."""
    for name in ("test", "validation"):
        if name not in loaded:
            train = loaded["train"]
            kept, held = hold_out(len(train[1]))
            loaded["train"], loaded[name] = take(train, kept), take(train, held)


def take_images(part: Images, places: np.ndarray) -> Images:
    return part[0][places], part[1][places]


def take_pairs(part: Pairs, places: np.ndarray) -> Pairs:
    return [part[0][i] for i in places], [part[1][i] for i in places]


def stratified(labels: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of each split: 80 %, 10 % and 10 % of every class, at least one each."""
    parts: tuple[list, list, list] = ([], [], [])
    random = np.random.default_rng(SEED)
    for label, name in enumerate(classes):
        places = random.permutation(np.flatnonzero(labels == label))
        if len(places) < 3:
            raise DataError(
                f"class {name!r} has {len(places)} pictures: it takes at least 3, one for each split, or "
                "folders train, validation and test that you fill yourself"
            )
        size = max(1, len(places) // 10)
        for part, cut in zip(parts, np.split(places, [len(places) - 2 * size, len(places) - size]), strict=True):
            part.append(cut)
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test
