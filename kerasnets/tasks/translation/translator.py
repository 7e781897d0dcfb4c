"""The signatures of translation: graph functions of sentences.

B rows, K beams, S source and T target subwords with their end tokens, L blocks, N heads, V vocabulary
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerasnets import decoding
from kerasnets.tasks.requests import broadcast_rows, require, require_padded_size, require_rows, require_text
from kerasnets.text.subwords import SubwordVocabulary

BEAMS = 5
MAX_LENGTH_PENALTY = 5.0  # largest absolute length penalty
MAX_PADDED_SUBWORDS = 6400  # rows times the subwords of the longest, which are computed at once: bounds the memory
MAX_SEARCH_SUBWORDS = 100_000  # subwords, end tokens included, of all source sentences of a search: bounds the time


class Translator:
    """The signatures of a translation network.

    Args: model: a `Transformer` or `Seq2SeqLSTM`; its vocabulary; limit: maximum subwords of a sentence; temperature:
        divisor of the logits that calibrates the probabilities (see `kerasnets.calibration`).
    """

    def __init__(self, model: keras.Model, vocabulary: SubwordVocabulary, limit: int, temperature: float):
        self.model, self.vocabulary, self.limit, self.temperature = model, vocabulary, limit, temperature
        self.max_bytes = max_bytes(vocabulary, limit)
        # One graph of greedy search for both signatures that use it.
        specs = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None,), tf.int32)
        self.greedy = tf.function(self._greedy, input_signature=specs)

    def signatures(self) -> dict[str, Any]:
        def graph(function: Callable, **inputs: tf.DType) -> Any:
            specs = [tf.TensorSpec((None,), dtype, name) for name, dtype in inputs.items()]
            return tf.function(function, input_signature=specs)

        return {
            "serving_default": graph(self.translate, text=tf.string),
            "beam_search": graph(self.beam_search, text=tf.string, length_penalty=tf.float32),
            "score": graph(self.score, text=tf.string, translation=tf.string),
            "explain": graph(self.explain, text=tf.string),
        }

    def translate(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Greedy search -> translation string [B]; score float32 [B]: mean log probability of its tokens."""
        tokens, log_probability = self.greedy(*self.tokenize_for_search(text))
        count = tf.cast(tf.maximum(token_lengths(tokens), 1), tf.float32)
        return {"translation": self.vocabulary.detokenize(tokens), "score": log_probability / count}

    def beam_search(self, text: tf.Tensor, length_penalty: tf.Tensor) -> dict[str, tf.Tensor]:
        """-> translations string [B, K], best first; scores float32 [B, K]: log probability / length^penalty."""
        text = require_rows(text, "text")
        length_penalty = broadcast_rows(length_penalty, "length_penalty", text, "text")
        valid = tf.math.is_finite(length_penalty) & (tf.abs(length_penalty) <= MAX_LENGTH_PENALTY)
        limit = f"{MAX_LENGTH_PENALTY:.0f}"
        allowed = f"but must be a number from -{limit} to {limit} (0 compares sums, 1 means)"
        with tf.control_dependencies([require(valid, "length_penalty", allowed, length_penalty)]):
            source, lengths = self.tokenize_for_search(text)

        def search(rows, source, limits):
            alpha = tf.gather(length_penalty, rows)
            start, end = self.vocabulary.START, self.vocabulary.END
            return decoding.beam_search(self.model, *self.start(source), start, end, limits, alpha, BEAMS)

        # A lower limit than that of greedy search: it bounds the score of a hypothesis (see `decoding.beam_search`).
        limits = tf.minimum(2 * lengths + 10, self.limit + 1)
        tokens, scores = decoding.search_by_length(search, source, lengths, limits, (BEAMS,))
        sentences = self.vocabulary.detokenize(tf.reshape(tokens, [-1, tf.shape(tokens)[2]]))
        return {"translations": tf.reshape(sentences, tf.shape(scores)), "scores": scores}

    def score(self, text: tf.Tensor, translation: tf.Tensor) -> dict[str, tf.Tensor]:
        """-> log_probability float32 [B], in nats, summed over the translation's subwords and its end token."""
        source, _ = self.tokenize(text, "text")
        # A single translation is tokenized once for all rows.
        target, lengths = (
            broadcast_rows(x, "translation", text, "text") for x in self.tokenize(translation, "translation")
        )
        source, target = require_memory(source, "text"), require_memory(target, "translation")
        probabilities = self.token_log_probabilities(
            self.model({"source": source, "target": self.decoder_inputs(target)}), target
        )
        valid = tf.sequence_mask(lengths, tf.shape(target)[1])
        return {"log_probability": tf.reduce_sum(tf.where(valid, probabilities, 0.0), axis=1)}

    def explain(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """-> the greedy translation; source_tokens, target_tokens string [B, S] and [B, T]: subwords, ▁ for a
        space, and the end token, "" after it; token_probability float32 [B, T]; attention weights: cross_attention
        [B, L, N, T, S], encoder_attention [B, L, N, S, S], 0 after the ends.

        A `Seq2SeqLSTM` has cross-attention with L = N = 1, or none (L = 0), and no attention in its encoder.
        """
        source, lengths = self.tokenize(text, "text")
        source = require_memory(source, "text")
        tokens, _ = self.greedy(source, lengths)
        tokens = require_memory(tokens, "translation")
        logits, weights = self.model.explain({"source": source, "target": self.decoder_inputs(tokens)})
        target_valid, source_valid = tf.sequence_mask(token_lengths(tokens), tf.shape(tokens)[1]), source != 0
        cross, encoder = (
            tf.where(rows[:, tf.newaxis, tf.newaxis, :, tf.newaxis], weights[side], 0.0)
            for side, rows in (("cross", target_valid), ("encoder", source_valid))
        )
        return {
            "translation": self.vocabulary.detokenize(tokens),
            "source_tokens": tf.where(source_valid, self.vocabulary.pieces(source), ""),
            "target_tokens": tf.where(target_valid, self.vocabulary.pieces(tokens), ""),
            "token_probability": tf.where(target_valid, tf.exp(self.token_log_probabilities(logits, tokens)), 0.0),
            "cross_attention": cross,
            "encoder_attention": encoder,
        }

    def tokenize(self, text: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """text string [B] -> subwords and an end token int32 [B, S], 0 = padding; lengths with the end token [B]."""
        ids = self.vocabulary.tokenize(require_text(text, name, self.max_bytes))
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        allowed = f"subwords long, more than the limit of {self.limit}: give one sentence at a time"
        with tf.control_dependencies([require(lengths <= self.limit, name, allowed, lengths)]):
            end = tf.fill([ids.nrows(), 1], self.vocabulary.END)
            return tf.concat([ids, end], axis=1).to_tensor(), lengths + 1

    def tokenize_for_search(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `tokenize`; fails if all rows together have too many subwords for a search."""
        source, lengths = self.tokenize(text, "text")
        total = tf.reduce_sum(lengths)
        limit = f"{MAX_SEARCH_SUBWORDS:,}"
        message = ["text has ", tf.strings.as_string(total), f" subwords in all its rows, more than {limit}"]
        check = tf.debugging.Assert(
            total <= MAX_SEARCH_SUBWORDS, [tf.strings.join([*message, "; give fewer rows at a time"])]
        )
        with tf.control_dependencies([check]):
            return tf.identity(source), lengths

    def _greedy(self, source: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """source int [B, S] -> tokens int32 [B, T], log probability [B]."""
        start, end = self.vocabulary.START, self.vocabulary.END

        def search(rows, source, limits):
            return decoding.greedy(self.model, *self.start(source), start, end, limits)

        # A translation is hardly ever three times as long; the limit stops a search that repeats itself.
        limits = tf.minimum(3 * lengths + 20, self.limit + 1)
        tokens, log_probability = decoding.search_by_length(search, source, lengths, limits)
        return tokens[:, : tf.reduce_max(token_lengths(tokens))], log_probability

    def start(self, source: tf.Tensor) -> tuple[Any, Any]:
        """-> memory and cache of the model; the output matrix is divided by the temperature to calibrate the logits."""
        (table, of_rows), cache = self.model.start(source, 0)
        return (table / self.temperature, of_rows), cache

    def decoder_inputs(self, target: tf.Tensor) -> tf.Tensor:
        """target [B, T] -> decoder inputs [B, T]: the start token, then all tokens but the last."""
        return tf.concat([tf.fill([tf.shape(target)[0], 1], self.vocabulary.START), target[:, :-1]], axis=1)

    def token_log_probabilities(self, logits: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        """logits [B, T, V] -> calibrated log probability of the tokens [B, T]."""
        return tf.gather(tf.nn.log_softmax(logits / self.temperature), tokens, batch_dims=2)


def max_bytes(vocabulary: SubwordVocabulary, limit: int) -> int:
    """-> maximum bytes of a sentence: longer ones have more subwords than the limit, or white space that is removed."""
    return limit * max(map(len, vocabulary.model.raw))


def token_lengths(tokens: tf.Tensor) -> tf.Tensor:
    """tokens [B, T] -> lengths [B], up to the last token that is not padding."""
    positions = tf.range(1, tf.shape(tokens)[1] + 1)
    return tf.reduce_max(tf.where(tokens != 0, positions, 0), axis=1)


def require_memory(tokens: tf.Tensor, name: str) -> tf.Tensor:
    """-> tokens [B, T]; fails if they are too many to compute at once."""
    rows, longest = tf.unstack(tf.shape(tokens))
    with tf.control_dependencies([require_padded_size(rows, longest, name, "subwords", MAX_PADDED_SUBWORDS)]):
        return tf.identity(tokens)
