"""The Transformer's decoder as a language model with a sliding window.

B batch, T positions, D width, V vocabulary, C context, L blocks, N heads, H = D / N
"""

import keras
from keras import ops

from kerasnets.layers.kernels.attention import mask_bias, window_mask
from kerasnets.models.recurrent_search import RecurrentSearch, as_hypotheses, as_rows
from kerasnets.models.transformer import TokenTransformer, apply_norm

register = keras.saving.register_keras_serializable("kerasnets")


@register
class DecoderTransformer(RecurrentSearch, TokenTransformer):
    """P(next token | tokens so far): the decoder only, a language model (Liu et al. 2018; Radford et al. 2018).

    A position attends to itself and the C - 1 positions before it (a sliding window: Beltagy et al. 2020, section 3.1),
    so a text can be of any length. The keys and values of the last C - 1 positions are all that later tokens need: a
    state of fixed size, like that of an LSTM (Oren et al. 2024). `call`, `run` and `step` compute with the same lines;
    they differ in the length of the text and in what is known before it.

    Rotary positions depend on distances alone. The others are position modulo C, and so differ within a window; their
    order turns over at each multiple of C.

    Args:
        vocabulary_size, width, num_heads, hidden_units, num_blocks, dropout, norm, activation, positions: as in
            `Transformer`.
        context C, 2 or more.
    Call: tokens int [B, T]; padding, 0, only at the end, where no earlier position sees it.
    Returns: logits [B, T, V] in float32 for the token after each position.
    """

    def __init__(self, *arguments, context=256, **kwargs):
        super().__init__(*arguments, **kwargs | {"max_length": context})  # the length of the table of learned positions
        if context < 2:
            raise ValueError(f"context is {context}; it must be 2 or more.")
        self.context = context

    def build(self, input_shape):
        self.build_input_layers(self.vocabulary_size)
        self.decoder, self.decoder_norm = self.build_stack("decoder")

    def call(self, tokens, training=None):
        return self.logits(self.read(tokens, training=training)[0])

    def read(self, tokens, states=None, training=None):
        """Compute all of `call` and `run` but the logits and the next states.

        Args: tokens int [B, T]; states: those of earlier text; None: there is none.
        Returns: [B, T, D]; for each block the keys and values [B, N, S, H] of these positions, S = T, or S = C - 1 + T
            after earlier text.
        """
        first, windows = (None, [None] * self.num_blocks) if states is None else self.unpack(states)
        known = []
        x, bias = self.embed_in_window(tokens, first, training)
        for block, window in zip(self.decoder, windows, strict=True):
            x, keys_and_values = block.read(x, window, bias, training)
            known.append(keys_and_values)
        return apply_norm(x, self.decoder_norm), known

    def embed_in_window(self, tokens, earlier=None, training=None):
        """tokens int [B, T], earlier: see `bias` -> [B, T, D], the bias."""
        length = ops.shape(tokens)[1]
        positions = (0 if earlier is None else earlier) + ops.expand_dims(ops.arange(length, dtype="int32"), 0)
        x = self.embed(tokens, start=positions % self.context, training=training)
        return x, self.bias(length, earlier)

    def bias(self, length, earlier=None):
        """-> the attention bias of the window, [B|1, 1, T, S]; None where the causal mask suffices.

        earlier int [B, 1]: positions before these T, of which C - 1 are kept; None: there are none, S = T.
        """
        if earlier is None:
            fits = isinstance(length, int) and length <= self.context
            return None if fits else mask_bias(window_mask(length, self.context))
        sources = self.context - 1 + length
        # The window of a text that is shorter has nothing in its first entries.
        filled = ops.arange(sources, dtype="int32") >= self.context - 1 - ops.expand_dims(earlier, 2)
        return mask_bias(ops.logical_and(window_mask(length, self.context, sources), filled))

    def run(self, tokens, states=None, valid=None, training=None):
        """Like `call`, but take the states of earlier text and return those after this text.

        Args: states: see `initial_states`; valid bool [B, T], False = padding at the end of a row, which changes no
            state.
        Returns: logits [B, T, V], states.
        """
        states = self.initial_states(ops.shape(tokens)[0]) if states is None else states
        x, known = self.read(tokens, states, training)
        return self.logits(x), self.next_states(states, known, ops.shape(tokens)[1], valid)

    def initial_states(self, batch):
        """-> the states before the first token: the number of positions so far [B, 1] in float32 (counted as in
        `next_states`), then keys and values of each block, not rotated, each [B, (C - 1) D]."""
        size = (self.context - 1) * self.width
        windows = [ops.zeros((batch, size), self.compute_dtype) for _ in range(2 * self.num_blocks)]
        return [ops.zeros((batch, 1), "float32"), *windows]

    def unpack(self, states):
        """States -> positions so far int [B, 1]; keys and values of each block [B, N, C - 1, H]."""
        shape = (-1, self.num_heads, self.context - 1, self.width // self.num_heads)
        windows = [ops.cast(ops.reshape(state, shape), self.compute_dtype) for state in states[1:]]
        return ops.cast(states[0], "int32"), list(zip(windows[::2], windows[1::2], strict=True))

    def next_states(self, states, known, length, valid=None):
        """-> the states after `length` more positions, of which the valid ones count; known: see `read`.

        Positions are counted up to 2 C, then from C on again: that suffices to know them modulo C, and that the window
        is full.
        """
        size = (self.context - 1) * self.width
        if valid is None:
            count = length
            windows = [x[:, :, length:] for pair in known for x in pair]
        else:
            count = ops.sum(ops.cast(valid, "int32"), axis=1, keepdims=True)
            entries = count + ops.expand_dims(ops.arange(self.context - 1, dtype="int32"), 0)  # [B, C - 1]
            entries = ops.expand_dims(entries, (1, 3))
            windows = [ops.take_along_axis(x, entries, axis=2) for pair in known for x in pair]
        position = ops.cast(states[0], "int32") + count
        position = ops.where(position < 2 * self.context, position, self.context + position % self.context)
        windows = [ops.reshape(window, (-1, size)) for window in windows]
        return [ops.cast(x, state.dtype) for x, state in zip([position, *windows], states, strict=True)]

    def valid_states(self, states):
        """States of finite numbers -> bool [B], whether `run` may have returned them."""
        position = states[0][:, 0]
        return (position == ops.round(position)) & (position >= 0) & (position < 2 * self.context)

    def start(self, prompt, length):
        """prompt int [B, T], 0 = padding at its end -> memory (empty), cache after the prompt.

        The cache, the states, has a fixed size: it ignores `length`, the maximum number of tokens that follow.
        """
        return ((), ()), self.run(prompt, self.initial_states(ops.shape(prompt)[0]), valid=prompt != 0)[1]

    def step(self, token, index, memory, cache):
        """token int [B] or [B, K] -> logits [*, V] for the next one, cache. The cache counts positions, not `index`."""
        logits, cache = self.run(ops.reshape(token, (-1, 1)), as_rows(cache))
        return ops.reshape(logits, (*ops.shape(token), self.vocabulary_size)), as_hypotheses(cache, token)

    def explain(self, tokens):
        """Return predictions and attention weights while the network reads tokens int [B, T], without earlier text.

        Returns: logits [B, T, V] in float32 of each token, before it is read, equal ones for the first; {"attention":
            the weights float32 [B, T, L, N, C] of the token t - d at the position t, by their distance d; 0 before the
            first token; the sum over d is 1}.
        """
        # Row by row, which bounds the memory for the weights of all pairs of positions.
        logits, attention = ops.map(lambda row: tuple(x[0] for x in self.explain_rows(row[None])), tokens)
        return logits, {"attention": attention}

    def explain_rows(self, tokens):
        """As `explain`, of all rows at once -> logits, weights."""
        weights = []
        x, bias = self.embed_in_window(tokens)
        for block in self.decoder:
            x, block_weights, _ = block.explain(x, self_bias=bias)
            weights.append(self.by_distance(block_weights))
        x = apply_norm(x, self.decoder_norm)
        before = ops.concatenate([ops.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        return self.logits(before), ops.transpose(ops.stack(weights, axis=2), (0, 3, 2, 1, 4))

    def by_distance(self, weights):
        """weights [B, N, T, T] of each position at each position -> [B, N, T, C], of those at each distance."""
        positions = ops.expand_dims(ops.arange(ops.shape(weights)[2], dtype="int32"), 1)
        sources = positions - ops.arange(self.context, dtype="int32")  # [T, C]
        taken = ops.take_along_axis(weights, ops.maximum(sources, 0)[None, None], axis=3)
        return ops.where(sources >= 0, taken, ops.zeros_like(taken))

    def get_config(self):
        config = super().get_config()
        del config["max_length"]
        return config | {"context": self.context}
