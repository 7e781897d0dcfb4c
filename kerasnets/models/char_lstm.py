"""A character language model: embedding, stacked LSTMs, softmax over the next character (Graves 2013, section 3)."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers import LSTM, StackedRNN, WordDropout
from kerasnets.layers.tied_logits import tied_logits
from kerasnets.models.recurrent_search import RecurrentSearch, as_hypotheses, as_rows

register = keras.saving.register_keras_serializable("kerasnets")


@register
class CharLSTM(RecurrentSearch, keras.Model):
    """P(next character | all characters so far).

    Args:
        vocabulary_size V; width D of the embedding; units U of each LSTM; num_layers L.
        dropout: on the inputs of every LSTM but the first and of the softmax, never between steps
            (Zaremba et al. 2014).
        variational: whether this dropout is the same at every step of a call (see `StackedRNN`).
        recurrent_weight_dropout: DropConnect of the LSTMs' recurrent kernels (see `LSTMCell`).
        word_dropout: share of the characters of each sequence whose embeddings are zero (see `WordDropout`).
        tied: whether the embedding is the softmax's matrix too (Press & Wolf 2017), which requires width = units.
    Call: tokens int [B, T].
    Returns: logits [B, T, V] in float32.
    """

    context = None  # it attends to no positions: its states summarize the whole text

    def __init__(
        self,
        vocabulary_size,
        width=64,
        units=256,
        num_layers=2,
        dropout=0.0,
        tied=False,
        variational=False,
        recurrent_weight_dropout=0.0,
        word_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_counts(vocabulary_size=vocabulary_size, width=width, num_layers=num_layers)
        if tied and width != units:
            raise ValueError(f"tied is True and width is {width}; it must be the same as units, which is {units}.")
        self.vocabulary_size, self.width, self.units = vocabulary_size, width, units
        self.num_layers, self.dropout, self.tied = num_layers, dropout, tied
        self.variational, self.word_dropout = variational, word_dropout
        self.recurrent_weight_dropout = recurrent_weight_dropout

    def build(self, input_shape):
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(self.vocabulary_size, self.width, dtype=policy, name="embedding")
        self.drop_words = WordDropout(self.word_dropout, dtype=policy, name="drop_words")
        options = {"recurrent_weight_dropout": self.recurrent_weight_dropout, "dtype": policy}
        rnns = [LSTM(self.units, **options, name=f"lstm_{n}") for n in range(self.num_layers)]
        self.rnns = StackedRNN(rnns, self.dropout, self.variational, dtype=policy, name="rnns")
        self.out = None if self.tied else keras.layers.Dense(self.vocabulary_size, dtype="float32", name="out")
        self.embedding.build(input_shape)
        self.drop_words.build((*input_shape, self.width), input_shape)
        self.rnns.build((*input_shape, self.width))
        if self.out is not None:
            self.out.build((*input_shape, self.units))

    def call(self, tokens, training=None):
        return self.run(tokens, training=training)[0]

    def run(self, tokens, states=None, valid=None, training=None):
        """Like `call`, but take the states of earlier text and return those after this text.

        Args: states, one (h, c) per layer, each [B, U]; valid bool [B, T], False = padding, which changes no state.
        Returns: logits [B, T, V], states.
        """
        x = self.drop_words(self.embedding(tokens), tokens, training=training)
        x, states = self.rnns(x, states=states, valid=valid, training=training)
        return self.logits(x), states

    def logits(self, x):
        """x [..., U] -> [..., V] in float32."""
        return tied_logits(x, self.embedding) if self.out is None else self.out(x)

    def initial_states(self, batch):
        """-> the states before the first token: (h, c) of each layer, each [B, U]."""
        return [tuple(states) for states in self.rnns.start(batch)]

    def valid_states(self, states):
        """States of finite numbers -> bool [B], whether `run` may have returned them: |h| is at most 1."""
        return ops.all(ops.abs(ops.stack([h for h, _ in states], axis=1)) <= 1, axis=(1, 2))

    def start(self, prompt, length):
        """prompt int [B, T], 0 = padding at its end -> memory (empty), cache after the prompt.

        An LSTM ignores `length`, the maximum number of tokens that follow.
        """
        return ((), ()), self.run(prompt, self.initial_states(ops.shape(prompt)[0]), valid=prompt != 0)[1]

    def step(self, token, index, memory, cache):
        """token int [B] or [B, K] -> logits [*, V] for the next one, cache. An LSTM needs no index."""
        x, cache = self.rnns.step(self.embedding(ops.reshape(token, (-1,))), as_rows(cache))
        return ops.reshape(self.logits(x), (*ops.shape(token), self.vocabulary_size)), as_hypotheses(cache, token)

    def explain(self, tokens):
        """Return predictions and gates while the network reads tokens int [B, T] from the zero state.

        Returns: logits [B, T, V] of each token, before it is read; {"input_gate", "forget_gate", "output_gate", "cell":
            each [B, T, L, U]}, after it. All in float32.
        """
        x, read = ops.cast(self.embedding(tokens), "float32"), []
        for lstm in self.rnns.rnns:
            i, f, _, o, c = lstm.gates(x)
            x = lstm.cell.read_out(o, c)
            read.append((i, f, o, c))
        before = ops.concatenate([ops.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        gates = [ops.stack(layers, axis=2) for layers in zip(*read, strict=True)]
        return self.logits(before), dict(zip(("input_gate", "forget_gate", "output_gate", "cell"), gates, strict=True))

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "units": self.units,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "tied": self.tied,
            "variational": self.variational,
            "recurrent_weight_dropout": self.recurrent_weight_dropout,
            "word_dropout": self.word_dropout,
        }
