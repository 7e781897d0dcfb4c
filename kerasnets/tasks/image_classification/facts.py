"""The facts of image classification."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasnets.checks import check
from kerasnets.config.networks import (
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
    image_size: int | None = None
    """Rows and columns to which all images are resized; required if their sizes differ."""
    model: ConvNetOptions | SequenceClassifierOptions | SequenceGeneratorOptions | VisionTransformerOptions = field(
        default_factory=ConvNetOptions
    )
    """The network."""

    def check(self) -> None:
        super().check()
        check(self.augmentation >= 0, "augmentation", self.augmentation, "0 or more")
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
