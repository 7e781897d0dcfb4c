"""1 → N: a sequence of tokens from one vector, of an image or of a class (Xu et al. 2015; Vinyals et al. 2015)."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers import LSTM, StackedRNN
from kerasnets.models.layer_arguments import build_if_needed, deserialize_layer
from kerasnets.models.recurrent_search import RecurrentSearch, as_hypotheses, as_rows

register = keras.saving.register_keras_serializable("kerasnets")


@register
class SequenceGenerator(RecurrentSearch, keras.Model):
    """P(next token | input, earlier tokens): the input's vector v sets the first states of the LSTMs.

        h_0, c_0 = tanh(W v + b)        for each LSTM

    Xu et al. 2015, section 3.1.2, use separate networks for h_0 and c_0; Vinyals et al. 2015 feed v as the first input.

    Args:
        vocabulary_size V of the tokens; 0 is padding.
        encoder: the layer that turns the input into a vector [B, D]: a `ConvNet` for images, `keras.layers.Embedding`
            for a class.
        width of the tokens' embedding; units U of each LSTM; num_layers.
        dropout: share of each LSTM's output that training sets to zero.
    Call: {"given": the input of `encoder`, "target": int [B, T], which begins with the start token}.
    Returns: logits [B, T, V] in float32 for the token after each target position.
    """

    def __init__(self, vocabulary_size, encoder, width=32, units=128, num_layers=1, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_counts(vocabulary_size=vocabulary_size, width=width, num_layers=num_layers)
        self.vocabulary_size, self.encoder, self.width = vocabulary_size, encoder, width
        self.units, self.num_layers, self.dropout = units, num_layers, dropout
        policy = self.dtype_policy
        self.first = keras.layers.Dense(num_layers * 2 * units, activation="tanh", dtype=policy, name="first")
        self.embedding = keras.layers.Embedding(vocabulary_size, width, dtype=policy, name="embedding")
        rnns = [LSTM(units, dtype=policy, name=f"lstm_{n}") for n in range(num_layers)]
        self.rnns = StackedRNN(rnns, dropout, dtype=policy, name="rnns")
        self.out = keras.layers.Dense(vocabulary_size, dtype="float32", name="out")

    def build(self, input_shape):
        given, (batch, time) = input_shape["given"], input_shape["target"]
        build_if_needed(self.encoder, given)
        self.first.build(self.encoder.compute_output_shape(given))
        self.embedding.build((batch, time))
        self.rnns.build((batch, time, self.width))
        self.out.build((batch, time, self.units))

    def call(self, inputs, training=None):
        return self.decode(self.encode(inputs["given"]), inputs["target"], training)

    def encode(self, given):
        """-> the first states of the LSTMs, one (h, c) each [B, U]."""
        return self.states(self.encoder(given))

    def states(self, vector):
        """The encoder's vector [B, D] -> the states, as in `encode`."""
        states = ops.split(self.first(vector), 2 * self.num_layers, axis=-1)
        return list(zip(states[::2], states[1::2], strict=True))

    def decode(self, states, target, training=None):
        """States from `encode`, target int [B, T] -> logits [B, T, V]."""
        x, _ = self.rnns(self.embedding(target), states=states, training=training)
        return self.out(x)

    def start(self, given, length):
        """-> memory (empty), cache for `step`. An LSTM ignores `length`, the maximum number of tokens."""
        return ((), ()), self.encode(given)

    def step(self, token, index, memory, cache):
        """token int [B] or [B, K] -> logits [*, V] for the next one, cache. An LSTM needs no index."""
        x, cache = self.rnns.step(self.embedding(ops.reshape(token, (-1,))), as_rows(cache))
        return ops.reshape(self.out(x), (*ops.shape(token), self.vocabulary_size)), as_hypotheses(cache, token)

    def compute_output_shape(self, input_shape):
        return (*input_shape["target"], self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "width": self.width,
            "units": self.units,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_layer(config, "encoder"))
