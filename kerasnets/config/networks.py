"""The options of each network, a part of the configuration, and how they build it. `kind` is its name: the class in
`kerasnets.models` in snake case. The doc string of a field is its help on the command line.

`kerasnets.models` is imported when a network is built, since with it comes TensorFlow.
"""

from dataclasses import dataclass
from typing import Any, Literal

from kerasnets.checks import RequestError, check, check_counts, check_shares
from kerasnets.config.values import Options

Shape = tuple[int, int, int]  # rows, columns, channels of a picture


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
        """Return the network, built with the sizes that its task takes from the data.

        Raises: RequestError if the options do not suit each other or the sizes.
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

    Its `network` takes the shape of the pictures, the number of classes, and of how many characters (and other symbols)
    the names of the classes consist.

    Attributes:
        spells: whether the network writes the name of the class; else it gives a logit for each class.
        convolutional: whether it has feature maps, `ConvNet.maps`, which Grad-CAM explains.
    """

    spells = False
    convolutional = False

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class TranslationOptions(NetworkOptions):
    """Options of a network for translation. Its `network` takes the size of the vocabulary of both languages, and the
    most subwords of a sentence."""

    def network(self, vocabulary_size: int, max_length: int) -> Any:
        raise NotImplementedError

    def longest(self, max_length: int) -> int | None:
        """-> the longest sequence that the network takes, for sentences of `max_length` subwords; None: no limit."""
        return None


@dataclass(frozen=True)
class ConvNetOptions(ImageOptions):
    """The convolutional network."""

    kind = "conv_net"
    convolutional = True

    filters: tuple[int, ...] = (32, 64, 128)
    """Kernels of each stage; every stage (of residual blocks: but the first) halves the picture."""
    kernel_size: int = 3
    """Side of the kernels in pixels."""
    padding: Literal["same", "valid"] = "same"
    """Zeros around the picture that keep its size, or none."""
    norm: Literal["post", "pre", "none"] = "post"
    """Batch normalization: after each convolution, before (of residual blocks), or none (without residual blocks)."""
    residual_blocks: int = 0
    """Residual blocks of a stage; 0 is a plain network, with a convolution and maximum pooling a stage."""
    widen: int = 1
    """Residual blocks have so many times the kernels of their stage."""
    head: Literal["average", "max", "flatten"] = "average"
    """What of the last maps is classified: the average or the maximum of each, or all their pixels."""
    hidden: tuple[int, ...] = ()
    """Units of fully connected layers before the last one."""
    dropout: float = 0.2
    """Share of the last layer's inputs that training sets to zero."""

    def check(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check(min(self.hidden, default=1) > 0, "model.hidden", self.hidden, "a list of 1 or more each")
        check_counts(**self.named("kernel_size", "widen"))
        check(self.residual_blocks >= 0, "model.residual_blocks", self.residual_blocks, "0 or more")
        check_shares(**self.named("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import ConvNet

        model = ConvNet(classes, **vars(self))
        model.build((None, *shape))
        return model


@dataclass(frozen=True)
class SequenceClassifierOptions(ImageOptions):
    """LSTMs that read a picture row by row (N → 1)."""

    kind = "sequence_classifier"
    recurrent = True

    units: int = 128
    """Units of each LSTM."""
    num_layers: int = 1
    """LSTMs on top of each other."""
    dropout: float = 0.2
    """Share of each LSTM's output that training sets to zero."""

    def check(self) -> None:
        check_counts(**self.named("units", "num_layers"))
        check_shares(**self.named("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import PixelRows, SequenceClassifier

        model = SequenceClassifier(classes, PixelRows(), **vars(self))
        model.build((None, *shape))
        return model


@dataclass(frozen=True)
class SequenceGeneratorOptions(ImageOptions):
    """LSTMs that spell the name of a picture's class, from the vector that a convolutional network makes (1 → N)."""

    kind = "sequence_generator"
    recurrent = True
    convolutional = True
    spells = True

    filters: tuple[int, ...] = (32, 64)
    """Kernels of each block of the convolutional network; every block halves the picture."""
    width: int = 64
    """Width of the picture's vector and of a character's embedding."""
    units: int = 128
    """Units of each LSTM."""
    num_layers: int = 1
    """LSTMs on top of each other."""
    dropout: float = 0.2
    """Share of each LSTM's output that training sets to zero."""

    def check(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check_counts(**self.named("units", "num_layers"))
        check(self.width >= 2, "model.width", self.width, "2 or more")
        check_shares(**self.named("dropout"))

    def network(self, shape: Shape, classes: int, characters: int) -> Any:
        from kerasnets.models import ConvNet, SequenceGenerator

        encoder = ConvNet(self.width, self.filters)  # its "classes" are the features of the vector
        model = SequenceGenerator(characters, encoder, self.width, self.units, self.num_layers, self.dropout)
        model.build({"given": (None, *shape), "target": (None, None)})
        return model


@dataclass(frozen=True)
class CharLSTMOptions(NetworkOptions):
    """The character LSTM (N → N)."""

    kind = "char_lstm"
    recurrent = True

    width: int = 64
    """Width of a character's embedding."""
    units: int = 256
    """Units of each LSTM."""
    num_layers: int = 2
    """LSTMs on top of each other."""
    dropout: float = 0.2
    """Share of each LSTM's output that training sets to zero."""
    tied: bool = False
    """Whether the embedding is the softmax's matrix too, for which width and units have to be the same."""

    def check(self) -> None:
        check_counts(**self.named("width", "units", "num_layers"))
        check_shares(**self.named("dropout"))
        allowed = f"the same as model.units, which is {self.units}, since model.tied is True"
        check(not self.tied or self.width == self.units, "model.width", self.width, allowed)

    def network(self, vocabulary_size: int) -> Any:
        from kerasnets.models import CharLSTM

        model = CharLSTM(vocabulary_size, **vars(self))
        model.build((None, None))
        return model


@dataclass(frozen=True)
class Seq2SeqLSTMOptions(TranslationOptions):
    """An encoder and a decoder of LSTMs (N → M)."""

    kind = "seq2seq_lstm"
    recurrent = True

    width: int = 128
    """Width of the embeddings."""
    units: int = 256
    """Units of each LSTM of the decoder; half of them for each direction of the encoder."""
    num_layers: int = 1
    """LSTMs of the encoder, and as many of the decoder."""
    attention: Literal["additive", "multiplicative", "none"] = "multiplicative"
    """How the decoder looks back at the source: Bahdanau's way, Luong's, or not at all."""
    dropout: float = 0.2
    """Share of the embeddings and of each LSTM's output that training sets to zero."""

    def check(self) -> None:
        check_counts(**self.named("width", "units", "num_layers"))
        check(self.units % 2 == 0, "model.units", self.units, "even, half of them for each direction")
        check_shares(**self.named("dropout"))

    def network(self, vocabulary_size: int, max_length: int) -> Any:
        from kerasnets.models import Seq2SeqLSTM

        model = Seq2SeqLSTM(vocabulary_size, **vars(self))
        model.build({"source": (None, None), "target": (None, None)})
        return model


@dataclass(frozen=True)
class TransformerOptions(TranslationOptions):
    """The Transformer."""

    kind = "transformer"

    width: int = 128
    """Width of the embeddings and of every block."""
    num_heads: int = 4
    """Attentions in parallel; they share the width."""
    hidden_units: int = 256
    """Units between the two layers of the feed-forward."""
    num_blocks: int = 4
    """Blocks of the encoder, and as many of the decoder."""
    dropout: float = 0.1
    """Share of each sublayer's output that training sets to zero."""
    norm: Literal["post", "pre"] = "pre"
    """Where blocks normalize: after the sum, as the paper, or before the sublayer, which learns sooner."""
    activation: Literal["relu", "gelu", "swiglu"] = "relu"
    """Between the layers of the feed-forward; swiglu has three of them."""
    positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    """How words tell their order: by sinusoids as the paper, a table that is learned, or turned queries and keys."""

    def check(self) -> None:
        check_counts(**self.named("width", "num_heads", "hidden_units", "num_blocks"))
        check_shares(**self.named("dropout"))
        multiple = f"multiple of model.num_heads, which is {self.num_heads}"
        check(self.width % self.num_heads == 0, "model.width", self.width, f"a {multiple}")
        each = self.width // self.num_heads
        check(each % 2 == 0 or self.positions != "rotary", "model.width", self.width, f"an even {multiple} (rotary)")

    def network(self, vocabulary_size: int, max_length: int) -> Any:
        from kerasnets.models import Transformer

        model = Transformer(vocabulary_size, **vars(self), max_length=self.longest(max_length))
        model.build({"source": (None, None), "target": (None, None)})
        return model

    def longest(self, max_length: int) -> int | None:
        return max_length + 1 if self.positions == "learned" else None  # and the start or the end token
