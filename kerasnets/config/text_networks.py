"""The options of networks for text, one class a network; the base classes are in `networks.py`."""

from dataclasses import dataclass
from typing import Any, Literal

from kerasnets.checks import check, check_counts, check_fractions
from kerasnets.config.networks import TextOptions, TranslationOptions


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
