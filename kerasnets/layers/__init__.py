"""The layers of the three networks, each a subclass of `keras.layers.Layer` that uses only `keras.ops`.

One legend of shapes holds everywhere:

    B batch      T target positions or time steps      S source positions
    D width      N attention heads                     H = D / N, width of one head
    U units      V vocabulary                          images are [B, Y, X, C]: rows, columns, channels

Masks are boolean: True means "may be attended to" or "is valid" (not padding). Callers pass them by name; layers
combine them with the masks that Keras itself passes, after `keras.layers.Embedding(mask_zero=True)` (masking.py).
`kernels` has faster functions for the same equations.
Numerically delicate parts (softmax, normalization statistics, positions) are computed in float32 under every dtype
policy.
"""

from kerasnets.layers.attention import MultiHeadAttention
from kerasnets.layers.blocks import DecoderBlock, EncoderBlock
from kerasnets.layers.convolution import ConvBlock, GlobalPooling, ResidualBlock
from kerasnets.layers.feed_forward import FeedForward
from kerasnets.layers.linear import Linear
from kerasnets.layers.local_connection import LocallyConnected2D
from kerasnets.layers.normalization import LayerNormalization
from kerasnets.layers.positions import LearnedPositions, PositionalEncoding
from kerasnets.layers.recurrent import LSTMCell, SimpleRNNCell
from kerasnets.layers.recurrent_attention import AdditiveAttention, MultiplicativeAttention
from kerasnets.layers.residual import Residual
from kerasnets.layers.rnn import LSTM, RNN
from kerasnets.layers.stacked_rnn import Bidirectional, StackedRNN
from kerasnets.layers.word_dropout import WordDropout

__all__ = [
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "Bidirectional",
    "ConvBlock",
    "DecoderBlock",
    "EncoderBlock",
    "FeedForward",
    "GlobalPooling",
    "LSTMCell",
    "LayerNormalization",
    "LearnedPositions",
    "Linear",
    "LocallyConnected2D",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "PositionalEncoding",
    "Residual",
    "ResidualBlock",
    "SimpleRNNCell",
    "StackedRNN",
    "WordDropout",
]
