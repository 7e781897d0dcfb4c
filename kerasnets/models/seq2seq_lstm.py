"""N → M: an encoder and a decoder of LSTMs (Sutskever et al. 2014), with attention (Bahdanau et al. 2015, Luong et al.
2015).   B batch, T target, S source, D width, U units, V vocabulary."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers import (
    LSTM,
    AdditiveAttention,
    Bidirectional,
    MultiplicativeAttention,
    StackedRNN,
    WordDropout,
)
from kerasnets.layers.tied_logits import tied_logits, tied_logits_kernel
from kerasnets.models.recurrent_search import RecurrentSearch, as_hypotheses, as_rows

register = keras.saving.register_keras_serializable("kerasnets")

ATTENTIONS = ("additive", "multiplicative", "none")


@register
class Seq2SeqLSTM(RecurrentSearch, keras.Model):
    """P(next target token | source, earlier target tokens).

        m      = BiLSTM(source)                     memory, one vector per source token
        h_t    = LSTM(y_{t-1}, h_{t-1})             starts from the encoder's last states
        a_t    = attention(h_t, m)                  context
        h̃_t    = tanh(W [a_t, h_t])                 Luong et al. 2015, eq. 5
        logits = E h̃_t                              E embeds source and target too

    As in Luong and unlike Bahdanau, the context goes into the output and not back into the LSTM, so that training
    computes all target positions at once. Token 0 is padding, which is masked.

    Args:
        vocabulary_size V; width D of the embedding; units U of each LSTM of the decoder, even, half of them for each
            direction of the encoder; num_layers of encoder and decoder;
        attention: "additive" (Bahdanau), "multiplicative" (Luong) or "none" (only the last states reach the decoder);
        dropout: share of the embeddings, of each LSTM's output and of h̃ that training sets to zero;
        variational: whether the dropout of the LSTMs' outputs is the same at every step (see `StackedRNN`);
        recurrent_weight_dropout: DropConnect of the LSTMs' recurrent kernels (see `LSTMCell`);
        word_dropout: share of the words of each sentence whose embeddings are zero (see `WordDropout`).
    Call: {"source": int [B, S], "target": int [B, T], which begins with the start token}.
    Returns: logits [B, T, V] in float32 for the token after each target position.
    """

    def __init__(
        self,
        vocabulary_size,
        width=128,
        units=256,
        num_layers=1,
        attention="multiplicative",
        dropout=0.0,
        variational=False,
        recurrent_weight_dropout=0.0,
        word_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_counts(vocabulary_size=vocabulary_size, width=width, units=units, num_layers=num_layers)
        if units % 2:
            raise ValueError(f"units is {units}; it must be even: each direction of the encoder has half of them.")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention is {attention!r}; it must be one of {', '.join(ATTENTIONS)}.")
        self.vocabulary_size, self.width, self.units = vocabulary_size, width, units
        self.num_layers, self.attention, self.dropout = num_layers, attention, dropout
        self.variational, self.word_dropout = variational, word_dropout
        self.recurrent_weight_dropout = recurrent_weight_dropout

    def build(self, input_shape):
        policy, layers = self.dtype_policy, range(self.num_layers)
        # The embedding is also the logits' matrix, unscaled: with a deviation of 1/√D the first logits are about 1.
        initializer = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size, self.width, embeddings_initializer=initializer, dtype=policy, name="embedding"
        )
        self.drop_words = WordDropout(self.word_dropout, dtype=policy, name="drop_words")
        options = {"recurrent_weight_dropout": self.recurrent_weight_dropout, "dtype": policy}
        encoder = [Bidirectional(LSTM(self.units // 2, **options), dtype=policy, name=f"encoder_{n}") for n in layers]
        decoder = [LSTM(self.units, **options, name=f"decoder_{n}") for n in layers]
        self.encoder = StackedRNN(encoder, self.dropout, self.variational, dtype=policy, name="encoder")
        self.decoder = StackedRNN(decoder, self.dropout, self.variational, dtype=policy, name="decoder")
        self.look = {
            "additive": lambda: AdditiveAttention(self.units, dtype=policy, name="look"),
            "multiplicative": lambda: MultiplicativeAttention(dtype=policy, name="look"),
            "none": lambda: None,
        }[self.attention]()
        self.combine = keras.layers.Dense(self.width, activation="tanh", use_bias=False, dtype=policy, name="combine")
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy, name="drop")
        self.embedding.build((None, None))
        self.drop_words.build((None, None, self.width), (None, None))
        self.encoder.build((None, None, self.width))
        self.decoder.build((None, None, self.width))
        outputs = (None, None, self.units)
        if self.look is not None:
            self.look.build(outputs, outputs)
        self.combine.build((None, None, self.units * (1 if self.look is None else 2)))

    def call(self, inputs, training=None):
        memory, states = self.encode(inputs["source"], training)
        h, _ = self.decoder(self.embed(inputs["target"], training), states=states, training=training)
        return self.logits(h, memory, training)

    def encode(self, source, training=None):
        """source int [B, S] -> memory: keys, vectors [B, S, U] and their mask [B, 1, S]; the last states."""
        valid = source != 0
        encoded, states = self.encoder(self.embed(source, training), valid=valid, training=training)
        # The states of both directions, concatenated, are the first state of a decoder's LSTM.
        states = [
            tuple(ops.concatenate(halves, axis=-1) for halves in zip(*directions, strict=True)) for directions in states
        ]
        keys = () if self.look is None else self.look.project(encoded)
        return (keys, encoded, ops.expand_dims(valid, 1)), states

    def embed(self, tokens, training=None):
        x = self.drop_words(self.embedding(tokens), tokens, training=training)
        return self.drop(x, training=training)

    def logits(self, h, memory, training=None):
        """h [B, T, U], memory from `encode` -> [B, T, V]."""
        return tied_logits(self.attend_and_combine(h, memory, training), self.embedding)

    def attend_and_combine(self, h, memory, training=None):
        """h [B, T, U] -> h̃ [B, T, D]."""
        keys, encoded, valid = memory
        if self.look is not None:
            context, _ = self.look.attend(h, keys, encoded, valid)
            h = ops.concatenate([context, h], axis=-1)
        return self.drop(self.combine(h), training=training)

    def explain(self, inputs):
        """As `call` -> logits [B, T, V], and the attention weights {"encoder": [B, 0, 1, S, S], empty, since the
        encoder has no attention, "cross": [B, 1, 1, T, S], or without attention [B, 0, 1, T, S]}."""
        source, target = inputs["source"], inputs["target"]
        memory, states = self.encode(source)
        h, _ = self.decoder(self.embed(target), states=states)
        keys, encoded, valid = memory
        batch, length = ops.shape(source)
        if self.look is None:
            cross = ops.zeros((batch, 0, 1, ops.shape(target)[1], length))
        else:
            cross = ops.expand_dims(self.look.attend(h, keys, encoded, valid)[1], (1, 2))
        return self.logits(h, memory), {"encoder": ops.zeros((batch, 0, 1, length, length)), "cross": cross}

    def start(self, source, length):
        """source int [B, S] -> memory, constant while decoding; cache, the states of the decoder.

        The memory is a pair: the matrix of the logits; the parts that have a batch axis. An LSTM ignores `length`, the
        maximum number of tokens.
        """
        memory, states = self.encode(source)
        return (tied_logits_kernel(self.embedding), memory), states

    def step(self, token, index, memory, cache):
        """token int [B] or [B, K] -> logits [*, V] for the next one, cache. An LSTM needs no index."""
        kernel, memory = memory
        h, cache = self.decoder.step(self.embed(ops.reshape(token, (-1,))), as_rows(cache))
        h = ops.reshape(h, (ops.shape(token)[0], -1, self.units))
        x = ops.reshape(self.attend_and_combine(h, memory), (-1, self.width))
        logits = ops.reshape(ops.matmul(x, kernel), (*ops.shape(token), self.vocabulary_size))
        return ops.cast(logits, "float32"), as_hypotheses(cache, token)

    def compute_output_shape(self, input_shape):
        return (*input_shape["target"], self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "units": self.units,
            "num_layers": self.num_layers,
            "attention": self.attention,
            "dropout": self.dropout,
            "variational": self.variational,
            "recurrent_weight_dropout": self.recurrent_weight_dropout,
            "word_dropout": self.word_dropout,
        }
