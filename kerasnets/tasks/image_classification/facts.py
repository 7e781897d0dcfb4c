"""The facts of image classification."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasnets.checks import check
from kerasnets.config.image_networks import (
    ConvNetOptions,
    SequenceClassifierOptions,
    SequenceGeneratorOptions,
    VisionTransformerOptions,
)
from kerasnets.config.run import Config
from kerasnets.tasks.facts import Facts
from kerasnets.tasks.protocol import Task

DIGITS = tuple("0123456789")
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Image shape and class names of the datasets that presets use.
DATASETS = {"digits": ((8, 8, 1), DIGITS), "mnist": ((28, 28, 1), DIGITS), "cifar10": ((32, 32, 3), CIFAR_10)}
OTHER_DATASETS = ((32, 32, 3), DIGITS)


@dataclass(frozen=True)
class ImageClassification(Config):
    """Classification of images."""

    augmentation: int = 2
    """Maximum random shift of training images in pixels, vertically and horizontally."""
    flip: bool = False
    """Whether to flip training images horizontally at random; unsuitable for digits or letters."""
    crop: float = 1.0
    """Smallest area of a random crop of training images, as a share of the image; the crop is resized to the whole size
    (Szegedy et al. 2015). 1: no crop."""
    cutout: int = 0
    """Side in pixels of a gray square at a random place of training images (DeVries & Taylor 2017). 0: no square."""
    mixup: float = 0.0
    """α of mixup, which mixes training images, and their labels, in pairs with weights from Beta(α, α) (Zhang et al.
    2018). 0: no mixing."""
    skip_unreadable: bool = False
    """Whether to leave out the images of a folder that cannot be read; otherwise they are an error."""
    image_size: int | None = None
    """Rows and columns to which all images are resized; required if their sizes differ."""
    model: ConvNetOptions | SequenceClassifierOptions | SequenceGeneratorOptions | VisionTransformerOptions = field(
        default_factory=ConvNetOptions
    )
    """The network."""

    def check(self) -> None:
        super().check()
        check(self.augmentation >= 0, "augmentation", self.augmentation, "0 or more")
        check(0 < self.crop <= 1, "crop", self.crop, "more than 0 and at most 1")
        check(self.cutout >= 0, "cutout", self.cutout, "0 or more")
        check(self.mixup >= 0, "mixup", self.mixup, "0 or more")
        allowed = f"0 with the network {self.model.kind}, which spells one class"
        check(not (self.mixup and self.model.spells), "mixup", self.mixup, allowed)
        check(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "1 or more")


def make(config: ImageClassification, directory: Path | None = None) -> Task:
    from kerasnets.tasks.image_classification.task import ImageClassificationTask

    return ImageClassificationTask(config, directory)


def sizes(config: ImageClassification) -> dict[str, Any]:
    from kerasnets.tasks.image_classification.spelling import Spelling

    (rows, columns, channels), classes = DATASETS.get(config.dataset, OTHER_DATASETS)
    shape = config.image_size or rows, config.image_size or columns, channels
    return {"shape": shape, "classes": len(classes), "characters": Spelling(classes).vocabulary_size}


FACTS = Facts(
    name="image_classification",
    config=ImageClassification,
    default_preset="small",
    make=make,
    sizes=sizes,
    vocabulary_file="classes.json",
    unit="images",
    bundled=("digits",),
    own_data="folder:",
    evaluation_limit=5_000,
    intended_use="Classifies an image into one of {classes} classes, with a probability for each.",
    limits="An image that shows none of the classes is still assigned to one of them. The whole image is resized to "
    "{shape}; small details are lost. A request has at most {rows:,} images.",
    conditions={
        "accuracy": "fraction of images, 0 to 1, whose most probable class is the true class",
        "loss": "cross-entropy in nats per image",
        "ece": "expected calibration error, 0 to 1, of the most probable class in 15 intervals",
    },
)
