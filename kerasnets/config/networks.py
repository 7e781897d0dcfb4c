"""The options of each network, a part of the configuration, which also build it. `kind` is the network's name: its
class in `kerasnets.models` in snake case. The doc string of a field is its help on the command line.

`kerasnets.models` is imported only when a network is built, since it imports TensorFlow.
"""

from dataclasses import dataclass
from typing import Any, Literal

from kerasnets.checks import RequestError, check, check_counts, check_fractions
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


@dataclass(frozen=True)
class CharLSTMOptions(TextOptions):
    """The character LSTM (N → N)."""

    kind = "char_lstm"
    recurrent = True
    explanation = (
        "`explain` returns the gates and the cell of every LSTM after each character, [batch, time, layers, units]."
    )

    width: int = 64
    """Width of character embeddings."""
    units: int = 256
    """Units of each LSTM."""
    num_layers: int = 2
    """Stacked LSTM layers."""
    dropout: float = 0.2
    """Dropout rate of each LSTM's output."""
    tied: bool = False
    """Whether the output layer shares the embedding's weights; width and units must then be equal."""
    variational: bool = False
    """Whether the dropout of an LSTM's output is the same at every step of a batch (Gal & Ghahramani 2016)."""
    recurrent_weight_dropout: float = 0.0
    """Share of the LSTMs' recurrent weights that a batch zeroes: DropConnect (Merity et al. 2018, AWD-LSTM)."""
    word_dropout: float = 0.0
    """Share of the characters of each sequence whose embeddings are zero (Gal & Ghahramani 2016)."""

    def check(self) -> None:
        check_counts(**self.values("width", "units", "num_layers"))
        check_fractions(**self.values("dropout", "recurrent_weight_dropout", "word_dropout"))
        allowed = f"the same as model.units, which is {self.units}, since model.tied is True"
        check(not self.tied or self.width == self.units, "model.width", self.width, allowed)

    @property
    def state_size(self) -> int:
        return sum(map(sum, self.carried))

    @property
    def carried(self) -> list[tuple[int, ...]]:
        return [(self.units, self.units)] * self.num_layers  # h and c

    def network(self, vocabulary_size: int) -> Any:
        from kerasnets.models import CharLSTM

        model = CharLSTM(vocabulary_size, **vars(self))
        model.build((None, None))
        return model


@dataclass(frozen=True)
class DecoderTransformerOptions(TextOptions):
    """The Transformer's decoder, a language model with a sliding window (GPT)."""

    kind = "decoder_transformer"
    explanation = (
        "`explain` returns `attention` [batch, time, blocks, heads, distance]: the weight that each character gives to "
        "the one `distance` characters before it (0: to itself)."
    )

    width: int = 128
    """Width of the embeddings and of every block."""
    num_heads: int = 4
    """Attention heads; each is width / num_heads wide."""
    hidden_units: int = 512
    """Units of the feed-forward network's hidden layer."""
    num_blocks: int = 4
    """Blocks."""
    context: int = 128
    """Characters that a block attends to, the current one included; a state has the keys and values of the others."""
    dropout: float = 0.1
    """Dropout rate of each sublayer's output."""
    norm: Literal["post", "pre"] = "pre"
    """Layer normalization: after the residual sum, as in the paper, or before the sublayer, which learns faster."""
    activation: Literal["relu", "gelu", "swiglu"] = "gelu"
    """Activation of the feed-forward network; swiglu adds a third layer to it."""
    positions: Literal["rotary", "sinusoidal", "learned"] = "rotary"
    """Positional encoding: rotary (RoPE), of distances alone; sinusoids or a learned table, of positions modulo the
    context."""

    def check(self) -> None:
        check_counts(**self.values("width", "num_heads", "hidden_units", "num_blocks"))
        check(self.context >= 2, "model.context", self.context, "2 or more")
        check_fractions(**self.values("dropout"))
        check_head_width(self)

    @property
    def state_size(self) -> int:
        return 1 + 2 * self.num_blocks * (self.context - 1) * self.width  # the position; keys and values

    def network(self, vocabulary_size: int) -> Any:
        from kerasnets.models import DecoderTransformer

        model = DecoderTransformer(vocabulary_size, **vars(self))
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
    """LSTM layers of the encoder and of the decoder, each."""
    attention: Literal["additive", "multiplicative", "none"] = "multiplicative"
    """Attention to the source: additive (Bahdanau), multiplicative (Luong), or none."""
    dropout: float = 0.2
    """Dropout rate of the embeddings and of each LSTM's output."""
    variational: bool = False
    """Whether the dropout of an LSTM's output is the same at every step of a batch (Gal & Ghahramani 2016)."""
    recurrent_weight_dropout: float = 0.0
    """Share of the LSTMs' recurrent weights that a batch zeroes: DropConnect (Merity et al. 2018, AWD-LSTM)."""
    word_dropout: float = 0.0
    """Share of the words of each sequence whose embeddings are zero (Gal & Ghahramani 2016)."""

    def check(self) -> None:
        check_counts(**self.values("width", "units", "num_layers"))
        check(self.units % 2 == 0, "model.units", self.units, "even, half of them for each direction")
        check_fractions(**self.values("dropout", "recurrent_weight_dropout", "word_dropout"))

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
    """Attention heads; each is width / num_heads wide."""
    hidden_units: int = 256
    """Units of the feed-forward network's hidden layer."""
    num_blocks: int = 4
    """Blocks of the encoder and of the decoder, each."""
    dropout: float = 0.1
    """Dropout rate of each sublayer's output."""
    norm: Literal["post", "pre"] = "pre"
    """Layer normalization: after the residual sum, as in the paper, or before the sublayer, which learns faster."""
    activation: Literal["relu", "gelu", "swiglu"] = "relu"
    """Activation of the feed-forward network; swiglu adds a third layer to it."""
    positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    """Positional encoding: sinusoids as in the paper, a learned table, or rotary (RoPE), in queries and keys."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights (tensor2tensor, the code of Vaswani et al. 2017)."""
    feed_forward_dropout: float = 0.0
    """Dropout rate of the feed-forward network's hidden layer (tensor2tensor's relu_dropout)."""
    word_dropout: float = 0.0
    """Share of the words of each sequence whose embeddings are zero (Gal & Ghahramani 2016)."""

    def check(self) -> None:
        check_counts(**self.values("width", "num_heads", "hidden_units", "num_blocks"))
        check_fractions(**self.values("dropout", "attention_dropout", "feed_forward_dropout", "word_dropout"))
        check_head_width(self)

    def network(self, vocabulary_size: int, max_length: int) -> Any:
        from kerasnets.models import Transformer

        model = Transformer(vocabulary_size, **vars(self), max_length=self.sequence_limit(max_length))
        model.build({"source": (None, None), "target": (None, None)})
        return model

    def sequence_limit(self, max_length: int) -> int | None:
        return max_length + 1 if self.positions == "learned" else None  # with the start or the end token


def check_head_width(options: TransformerOptions | DecoderTransformerOptions) -> None:
    """Raises: ValueError if the heads cannot share the width, or rotary positions cannot pair a head's features."""
    multiple = f"multiple of model.num_heads, which is {options.num_heads}"
    check(options.width % options.num_heads == 0, "model.width", options.width, f"a {multiple}")
    even = options.width // options.num_heads % 2 == 0 or options.positions != "rotary"
    check(even, "model.width", options.width, f"an even {multiple} (rotary)")
