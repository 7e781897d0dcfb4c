"""A character language model: embedding, stacked LSTMs, softmax over the next character (Graves 2013, section 3)."""

import keras
from keras import ops

from kerasnets.layers import LSTM

register = keras.saving.register_keras_serializable("kerasnets")


@register
class CharLSTM(keras.Model):
    """P(next character | all characters so far).

    Args:
        vocabulary_size V; width D of the embedding; units U of each LSTM; num_layers L.
        dropout: on what goes into every LSTM but the first and into the softmax, never from step to step
            (Zaremba et al. 2014).
    Call: tokens int [B, T].
    Returns: logits [B, T, V] in float32.
    """

    def __init__(self, vocabulary_size, width=64, units=256, num_layers=2, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        for name, value in [("vocabulary_size", vocabulary_size), ("width", width), ("num_layers", num_layers)]:
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        self.vocabulary_size, self.width, self.units = vocabulary_size, width, units
        self.num_layers, self.dropout = num_layers, dropout

    def build(self, tokens_shape):
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(self.vocabulary_size, self.width, dtype=policy, name="embedding")
        self.lstms = [LSTM(self.units, dtype=policy, name=f"lstm_{n}") for n in range(self.num_layers)]
        self.drops = [
            keras.layers.Dropout(self.dropout, dtype=policy, name=f"drop_{n}") for n in range(self.num_layers)
        ]
        self.out = keras.layers.Dense(self.vocabulary_size, dtype="float32", name="out")
        self.embedding.build(tokens_shape)
        shape = (*tokens_shape, self.width)
        for lstm in self.lstms:
            lstm.build(shape)
            shape = (*tokens_shape, self.units)
        self.out.build(shape)

    def call(self, tokens, training=None):
        return self.run(tokens, training=training)[0]

    def run(self, tokens, states=None, valid=None, training=None):
        """Like `call`, with the states of earlier text going in and those after this text coming out.

        Args: states, one (h, c) a layer, each [B, U]; valid bool [B, T], False = padding, which changes no state.
        Returns: logits [B, T, V], states.
        """
        x, after = self.embedding(tokens), []
        for n, (lstm, drop) in enumerate(zip(self.lstms, self.drops, strict=True)):
            x, state = lstm(x, states=states and states[n], valid=valid)
            x = drop(x, training=training)
            after.append(state)
        return self.out(x), after

    def initial_states(self, batch):
        return [lstm.cell.get_initial_state(batch) for lstm in self.lstms]

    def start(self, prompt):
        """prompt int [B, T], 0 = padding at its end -> memory (nothing stays constant here), cache after the prompt."""
        return (), self.run(prompt, self.initial_states(ops.shape(prompt)[0]), valid=prompt != 0)[1]

    def step(self, token, index, memory, cache):
        """token int [B] -> logits [B, V], cache. The place in the text, `index`, is of no use to an LSTM."""
        x, after = self.embedding(token), []
        for lstm, state in zip(self.lstms, cache, strict=True):
            x, state = lstm.step(x, state)
            after.append(state)
        return self.out(x), after

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "units": self.units,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
        }
