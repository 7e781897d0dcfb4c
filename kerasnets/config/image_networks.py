"""The options of networks for images, one class a network; the base classes are in `networks.py`."""

from dataclasses import dataclass
from typing import Any, Literal

from kerasnets.checks import check, check_counts, check_fractions
from kerasnets.config.networks import ImageOptions, Shape


@dataclass(frozen=True)
class ConvNetOptions(ImageOptions):
    """The convolutional network."""

    kind = "conv_net"
    has_feature_maps = True

    filters: tuple[int, ...] = (32, 64, 128)
    """Filters of each stage; every stage (with residual blocks: except the first) halves the image."""
    kernel_size: int = 3
    """Rows and columns of the kernels."""
    padding: Literal["same", "valid"] = "same"
    """Padding of the convolutions: same (zeros, so that the image keeps its size) or valid (none)."""
    norm: Literal["post", "pre", "none"] = "post"
    """Batch normalization: after each convolution, before it (residual blocks only), or none (plain networks only)."""
    residual_blocks: int = 0
    """Residual blocks per stage; 0 is a plain network, with a convolution and max pooling per stage."""
    widen: int = 1
    """Filter multiplier of residual blocks."""
    head: Literal["average", "max", "flatten"] = "average"
    """Global pooling of the last feature maps: average or maximum of each; or flatten, no pooling."""
    hidden: tuple[int, ...] = ()
    """Units of each hidden fully connected layer before the last layer."""
    dropout: float = 0.2
    """Dropout rate of the last layer's inputs."""

    def check(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check(min(self.hidden, default=1) > 0, "model.hidden", self.hidden, "a list of 1 or more each")
        check_counts(**self.values("kernel_size", "widen"))
        check(self.residual_blocks >= 0, "model.residual_blocks", self.residual_blocks, "0 or more")
        check_fractions(**self.values("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import ConvNet

        model = ConvNet(classes, **vars(self))
        model.build((None, *shape))
        return model


@dataclass(frozen=True)
class SequenceClassifierOptions(ImageOptions):
    """LSTMs that read an image row by row (N → 1)."""

    kind = "sequence_classifier"
    recurrent = True

    units: int = 128
    """Units of each LSTM."""
    num_layers: int = 1
    """Stacked LSTM layers."""
    dropout: float = 0.2
    """Dropout rate of each LSTM's output."""

    def check(self) -> None:
        check_counts(**self.values("units", "num_layers"))
        check_fractions(**self.values("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import PixelRows, SequenceClassifier

        model = SequenceClassifier(classes, PixelRows(), **vars(self))
        model.build((None, *shape))
        return model


@dataclass(frozen=True)
class SequenceGeneratorOptions(ImageOptions):
    """LSTMs that spell the name of an image's class, from the output vector of a convolutional network (1 → N)."""

    kind = "sequence_generator"
    recurrent = True
    has_feature_maps = True
    spells = True

    filters: tuple[int, ...] = (32, 64)
    """Filters of each block of the convolutional network; every block halves the image."""
    width: int = 64
    """Width of the image vector and of character embeddings."""
    units: int = 128
    """Units of each LSTM."""
    num_layers: int = 1
    """Stacked LSTM layers."""
    dropout: float = 0.2
    """Dropout rate of each LSTM's output."""

    def check(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check_counts(**self.values("units", "num_layers"))
        check(self.width >= 2, "model.width", self.width, "2 or more")
        check_fractions(**self.values("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import ConvNet, SequenceGenerator

        encoder = ConvNet(self.width, self.filters)  # its "classes" are the features of the vector
        model = SequenceGenerator(characters, encoder, self.width, self.units, self.num_layers, self.dropout)
        model.build({"given": (None, *shape), "target": (None, None)})
        return model


@dataclass(frozen=True)
class VisionTransformerOptions(ImageOptions):
    """The Vision Transformer, which reads an image as a sequence of patches."""

    kind = "vision_transformer"
    has_feature_maps = True

    patch_size: int = 4
    """Rows and columns of a patch; they divide those of the images. Memory grows with the square of the patches."""
    width: int = 128
    """Width of the patch embeddings and of every block."""
    num_heads: int = 4
    """Attention heads; each is width / num_heads wide."""
    hidden_units: int = 256
    """Units of the feed-forward network's hidden layer."""
    num_blocks: int = 6
    """Blocks of the encoder."""
    dropout: float = 0.1
    """Dropout rate of the patch embeddings and of each sublayer's output."""
    norm: Literal["post", "pre"] = "pre"
    """Layer normalization: before the sublayer, as in the paper, or after the residual sum."""
    activation: Literal["relu", "gelu", "swiglu"] = "gelu"
    """Activation of the feed-forward network; swiglu adds a third layer to it."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """Positional encoding of the patches: a learned table, as in the paper, or sinusoids."""

    def check(self) -> None:
        check_counts(**self.values("patch_size", "width", "num_heads", "hidden_units", "num_blocks"))
        check_fractions(**self.values("dropout"))
        multiple = f"multiple of model.num_heads, which is {self.num_heads}"
        check(self.width % self.num_heads == 0, "model.width", self.width, f"a {multiple}")
        even = self.positions != "sinusoidal" or self.width % 2 == 0
        check(even, "model.width", self.width, f"an even {multiple} (sinusoidal)")

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import VisionTransformer

        model = VisionTransformer(classes, **vars(self))
        model.build((None, *shape))
        return model
