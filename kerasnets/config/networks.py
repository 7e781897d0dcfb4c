"""The options of each network, a part of the configuration. `kind` is its name: the class in `kerasnets.models` in
snake case. The doc string of a field is its help on the command line.
"""

from dataclasses import dataclass
from typing import Literal

from kerasnets.config.checks import check, check_counts, check_share


@dataclass(frozen=True)
class ConvNetModel:
    """The convolutional network."""

    kind = "conv_net"

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

    def __post_init__(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check(min(self.hidden, default=1) > 0, "model.hidden", self.hidden, "a list of 1 or more each")
        check_counts(self, "model.", "kernel_size", "widen")
        check(self.residual_blocks >= 0, "model.residual_blocks", self.residual_blocks, "0 or more")
        check_share("model.dropout", self.dropout)


@dataclass(frozen=True)
class SequenceClassifierModel:
    """LSTMs that read a picture row by row (N → 1)."""

    kind = "sequence_classifier"

    units: int = 128
    """Units of each LSTM."""
    num_layers: int = 1
    """LSTMs on top of each other."""
    dropout: float = 0.2
    """Share of each LSTM's output that training sets to zero."""

    def __post_init__(self) -> None:
        check_counts(self, "model.", "units", "num_layers")
        check_share("model.dropout", self.dropout)


@dataclass(frozen=True)
class SequenceGeneratorModel:
    """LSTMs that spell the name of a picture's class, from the vector that a convolutional network makes (1 → N)."""

    kind = "sequence_generator"

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

    def __post_init__(self) -> None:
        check(
            len(self.filters) > 0 and min(self.filters) > 0, "model.filters", self.filters, "a list of 1 or more each"
        )
        check_counts(self, "model.", "units", "num_layers")
        check(self.width >= 2, "model.width", self.width, "2 or more")
        check_share("model.dropout", self.dropout)


@dataclass(frozen=True)
class CharLSTMModel:
    """The character LSTM (N → N)."""

    kind = "char_lstm"

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

    def __post_init__(self) -> None:
        check_counts(self, "model.", "width", "units", "num_layers")
        check_share("model.dropout", self.dropout)
        allowed = f"the same as model.units, which is {self.units}, since model.tied is True"
        check(not self.tied or self.width == self.units, "model.width", self.width, allowed)


@dataclass(frozen=True)
class Seq2SeqLSTMModel:
    """An encoder and a decoder of LSTMs (N → M)."""

    kind = "seq2seq_lstm"

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

    def __post_init__(self) -> None:
        check_counts(self, "model.", "width", "units", "num_layers")
        check(self.units % 2 == 0, "model.units", self.units, "even, half of them for each direction")
        check_share("model.dropout", self.dropout)


@dataclass(frozen=True)
class TransformerModel:
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

    def __post_init__(self) -> None:
        check_counts(self, "model.", "width", "num_heads", "hidden_units", "num_blocks")
        check_share("model.dropout", self.dropout)
        multiple = f"multiple of model.num_heads, which is {self.num_heads}"
        check(self.width % self.num_heads == 0, "model.width", self.width, f"a {multiple}")
        each = self.width // self.num_heads
        check(each % 2 == 0 or self.positions != "rotary", "model.width", self.width, f"an even {multiple} (rotary)")
