"""Base classes of the options of networks, a part of the configuration, which also build the network. `kind` is the
network's name: its class in `kerasnets.models` in snake case. The docstring of a field is its help on the command line.

`kerasnets.models` is imported only when a network is built, since it imports TensorFlow.
"""

from dataclasses import dataclass
from typing import Any

from kerasnets.checks import RequestError
from kerasnets.config.values import Options

Shape = tuple[int, int, int]  # rows, columns, channels of an image


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Base of the options of a network.

    Attributes:
        kind: the network's name, after `--model`.
        recurrent: whether it has a loop over time.
    """

    prefix = "model."
    recurrent = False

    def build(self, **sizes: Any) -> Any:
        """Return the network, built with the sizes that its task derives from the data.

        Raises: RequestError if the options are incompatible with each other or with the sizes.
        """
        try:
            return self.network(**sizes)
        except ValueError as error:
            raise RequestError(str(error)) from error

    def network(self, *args: Any, **sizes: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class ImageOptions(NetworkOptions):
    """Options of a network for image classification.

    Its `network` takes the shape of the images, the number of classes, and the size of the vocabulary that spells the
    classes' names (`Spelling`).

    Attributes:
        spells: whether the network writes the name of the class; otherwise it returns a logit for each class.
        has_feature_maps: whether the network, or its encoder, has `feature_maps` and `classify_maps`, for Grad-CAM (see
            `ConvNet`).
    """

    spells = False
    has_feature_maps = False

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class TranslationOptions(NetworkOptions):
    """Options of a network for translation. Its `network` takes the size of the shared vocabulary and the maximum
    subwords of a sentence."""

    def network(self, vocabulary_size: int, max_length: int) -> Any:
        raise NotImplementedError

    def sequence_limit(self, max_length: int) -> int | None:
        """-> the network's maximum sequence length for sentences of `max_length` subwords; None: unlimited."""
        return None


@dataclass(frozen=True)
class TextOptions(NetworkOptions):
    """Options of a network for text generation. Its `network` takes the size of the vocabulary; the model is a
    `TextNetwork` (`kerasnets.tasks.text_generation.network`).

    Attributes:
        explanation: the outputs of the signature `explain` that only this network has, a sentence for the model card.
    """

    explanation = ""

    @property
    def state_size(self) -> int:
        """Numbers in the states with which the network continues a text."""
        raise NotImplementedError

    @property
    def carried(self) -> list[tuple[int, ...]]:
        """Sizes of the states that training carries from one batch to the next, grouped by layer; empty: none."""
        return []

    def network(self, vocabulary_size: int) -> Any:
        raise NotImplementedError
