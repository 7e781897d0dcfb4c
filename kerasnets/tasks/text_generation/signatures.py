"""The signatures of text generation: continue a prompt, and explain how the network reads a text.

B batch, T characters, V vocabulary
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets import decoding
from kerasnets.decoding.loop import loop
from kerasnets.tasks.requests import (
    require,
    require_bytes,
    require_rows,
    require_text,
    require_together,
    rows_of,
    same_rows,
)
from kerasnets.tasks.text_generation.state import StateLayout
from kerasnets.tasks.text_generation.step import fused_step
from kerasnets.text.characters import CharacterVocabulary

LAST = 1000  # the network reads only this many last characters of a prompt: bounds the work of a request
PROMPT_BYTES = 100_000  # of a whole prompt
TOGETHER = 1_000_000  # rows times the characters of the longest prompt, or times those to write: bounds the time
READ_TOGETHER = 20_000  # characters of prompts that the network reads at once: bounds the memory
EXPLAINED = 1000  # characters of a text for `explain`
EXPLAINED_TOGETHER = 20_000  # rows times the characters of the longest: bounds the memory of the response
# Default values of inputs that a request omits, one value for all rows.
DEFAULTS: dict[str, np.ndarray] = {
    "length": np.array([200], np.int32),
    "temperature": np.array([0.8], np.float32),
    "top_k": np.array([0], np.int32),
    "top_p": np.array([1.0], np.float32),
    "repetition_penalty": np.array([1.0], np.float32),
    "seed": np.array([0], np.int64),
}
PROMPT = tf.TensorSpec((None,), tf.string, "prompt")
OPTIONS = {name: tf.TensorSpec((None,), value.dtype, name) for name, value in DEFAULTS.items()}


class TextSignatures:
    """Args: model: a `CharLSTM`; limit: maximum characters per call; temperature: of the calibrated probabilities."""

    def __init__(self, model: keras.Model, vocabulary: CharacterVocabulary, limit: int, temperature: float):
        self.model, self.vocabulary, self.limit, self.temperature = model, vocabulary, limit, temperature
        self.layout = StateLayout(model, vocabulary.characters)
        self.rows = rows_of(self.layout.size)  # a state is the largest output except those of `explain`
        self.state = tf.TensorSpec((None, self.layout.size), tf.float32, "state")
        # One graph for all signatures that generate text.
        self.write = tf.function(self.sample, [PROMPT, *OPTIONS.values(), self.state])

    def all(self) -> dict[str, Any]:
        contract = [PROMPT, *(spec for name, spec in OPTIONS.items() if name != "repetition_penalty")]
        return {
            "serving_default": tf.function(self.serving_default, [PROMPT]),
            "generate": tf.function(self.generate, contract),
            "next_char": tf.function(self.next_char, [PROMPT]),
            "stream": tf.function(self.stream, [*contract, self.state]),
            "sample": self.write,
            "explain": tf.function(self.explain, [tf.TensorSpec((None,), tf.string, "text")]),
        }

    def defaults(self) -> dict[str, dict[str, np.ndarray]]:
        """-> the values that TensorFlow Serving uses for omitted inputs."""
        options = {name: value.copy() for name, value in DEFAULTS.items()}
        options["length"] = np.minimum(options["length"], self.limit)
        everything = options | {"state": np.zeros((1, self.layout.size), np.float32)}
        contract = {name: value for name, value in options.items() if name != "repetition_penalty"}
        return {"generate": contract, "stream": contract | {"state": everything["state"]}, "sample": everything}

    def serving_default(self, prompt):
        return {"text": self.generate(prompt, **self.defaults()["generate"])["text"]}

    def generate(self, prompt, length, temperature, top_k, top_p, seed):
        penalty, state = DEFAULTS["repetition_penalty"], tf.zeros([1, self.layout.size])
        answer = self.write(prompt, length, temperature, top_k, top_p, penalty, seed, state)
        return {name: answer[name] for name in ("text", "log_probability")}

    def stream(self, prompt, length, temperature, top_k, top_p, seed, state):
        penalty = DEFAULTS["repetition_penalty"]
        answer = self.write(prompt, length, temperature, top_k, top_p, penalty, seed, state)
        return {name: answer[name] for name in ("text", "state")}

    def sample(self, prompt, length, temperature, top_k, top_p, repetition_penalty, seed, state):
        """`generate` and `stream` in one, with every option. A row with a non-zero state continues from it and ignores
        its prompt."""
        prompt = require_bytes(require_rows(prompt, "prompt", self.rows), "prompt", PROMPT_BYTES)
        given = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        given |= {"repetition_penalty": repetition_penalty, "seed": seed, "state": state}
        given = {name: same_rows(tf.convert_to_tensor(x), name, prompt, "prompt") for name, x in given.items()}
        with tf.control_dependencies(self.checks(given)):  # check before any computation
            given = {name: tf.identity(x) for name, x in given.items()}
        length, seed = given["length"], given["seed"]
        state = self.layout.unpack(given["state"])
        going_on = state.token, state.cache, state.seen
        first, cache, seen = tf.cond(
            tf.reduce_all(state.begun), lambda: going_on, lambda: self.begin(prompt, state.begun, going_on)
        )
        options = decoding.Options(*(given[name] for name in decoding.Options._fields))
        positions = state.position[:, tf.newaxis] + tf.range(tf.cast(tf.reduce_max(length), tf.int64))
        random_numbers = decoding.uniform(seed, positions)
        step = fused_step(self.model)
        tokens, log_probability, cache = decoding.sample(step, (), cache, first, length, options, random_numbers, seen)
        last = tf.gather(tokens, length - 1, batch_dims=1)
        position = state.position + tf.cast(length, tf.int64)
        return {
            "text": tf.strings.reduce_join(tf.where(tokens == 0, "", self.vocabulary.pieces(tokens)), axis=-1),
            "log_probability": log_probability,
            "state": self.layout.pack(last, position, seen | self.among(tokens), cache),
        }

    def begin(self, prompt, begun, going_on):
        """-> last character [B], the cache before it, and the seen characters bool [B, V]: `going_on` for rows that
        have begun, and from their prompts for the others."""
        # Rows that have begun may have an invalid prompt: replace it by a valid one.
        ids = self.read(tf.where(begun, self.vocabulary.characters[1], prompt))
        last, cache = self.start(ids)
        cache = [tuple(tf.cast(part, tf.float32) for part in pair) for pair in cache]
        return tf.nest.map_structure(
            lambda old, new: tf.raw_ops.Select(condition=begun, x=old, y=new), going_on, (last, cache, self.among(ids))
        )

    def among(self, ids):
        """ids int32 [B, T], 0 = none -> bool [B, V]: whether each character of the vocabulary occurs."""
        rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, tf.newaxis], tf.shape(ids))
        shape = [tf.shape(ids)[0], self.vocabulary.size]
        counts = tf.tensor_scatter_nd_add(tf.zeros(shape, tf.int32), tf.stack([rows, ids], axis=-1), tf.sign(ids))
        return tf.ensure_shape(counts > 0, [None, self.vocabulary.size])

    def checks(self, given: dict[str, tf.Tensor]) -> list[tf.Operation]:
        """given: options, each [B] -> control dependencies that fail for values out of range or too much work."""

        def check(name: str, valid: Callable[[tf.Tensor], tf.Tensor], allowed: str) -> tf.Operation:
            return require(valid(given[name]), name, f"but must be {allowed}", given[name])

        def finite(x):
            return tf.math.is_finite(x)

        length = given["length"]
        return [
            check("length", lambda x: (x >= 1) & (x <= self.limit), f"in 1 to {self.limit}"),
            check(
                "temperature",
                lambda x: finite(x) & (x >= 0),
                "a number from 0 (the most probable character) up",
            ),
            check("top_k", lambda x: x >= 0, "0 (no limit) or more"),
            check("top_p", lambda x: (x > 0) & (x <= 1), "above 0 and at most 1 (no limit)"),
            check("repetition_penalty", lambda x: (x >= 0.01) & (x <= 100), "from 0.01 to 100 (1 for no penalty)"),
            require_together(tf.size(length), tf.reduce_max(length), "prompt", "characters to write", TOGETHER),
        ]

    def next_char(self, prompt):
        """-> calibrated probabilities of all characters except the unknown one, highest first."""
        last, cache = self.start(self.read(prompt))
        logits, _ = self.model.step(last, 0, (), cache)
        probabilities = tf.nn.softmax(logits[:, 1:] / self.temperature)
        probabilities, best = tf.math.top_k(probabilities, self.vocabulary.size - 1)
        return {"characters": self.vocabulary.pieces(best + 1), "probabilities": probabilities}

    def explain(self, text):
        """-> characters, their calibrated probabilities, gates and cells; "" and zeros after the end of a row."""
        ids = self.vocabulary.encode(
            require_text(text, "text", 4 * EXPLAINED, blank=True)
        )  # at most 4 bytes per character in UTF-8
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        checks = [
            require(lengths <= EXPLAINED, "text", f"characters long, more than the limit of {EXPLAINED:,}", lengths),
            require_together(tf.size(lengths), tf.reduce_max(lengths), "text", "characters", EXPLAINED_TOGETHER),
        ]
        with tf.control_dependencies(checks):
            dense = ids.to_tensor()
        there = tf.sequence_mask(lengths, tf.shape(dense)[1])
        logits, read = self.model.explain(dense)
        probability = tf.gather(tf.nn.softmax(logits / self.temperature), dense, batch_dims=2)
        read = [tf.where(there[..., tf.newaxis, tf.newaxis], part, 0.0) for part in read]
        return {
            "characters": tf.where(there, self.vocabulary.pieces(dense), ""),
            "probability": tf.where(there, probability, 0.0),
            **dict(zip(("input_gate", "forget_gate", "output_gate", "cell"), read, strict=True)),
        }

    def start(self, ids):
        """ids int32 [B, T], 0 = padding at the end -> last id of each row [B]; the cache before it."""
        lengths = tf.reduce_sum(tf.cast(ids != 0, tf.int32), axis=1)
        rows, longest = tf.unstack(tf.shape(ids))
        before = tf.where(tf.sequence_mask(lengths - 1, longest), ids, 0)
        size = tf.maximum(READ_TOGETHER // rows, 1)

        def read_some(place, cache):
            part = before[:, place : place + size]
            return place + size, self.model.run(part, cache, valid=part != 0)[1]

        cache = [tuple(states) for states in self.model.initial_states(rows)]
        _, cache = loop(lambda place, _: place < longest, read_some, (tf.constant(0), cache))
        return tf.gather(ids, lengths - 1, batch_dims=1), cache

    def read(self, prompt):
        """prompt string [B] -> ids int32 [B, T], 0 = padding at the end.

        Unknown characters are removed; only the last 1,000 of the others are used.
        """
        ids = self.vocabulary.encode(require_text(prompt, "prompt", PROMPT_BYTES, self.rows, blank=True))
        ids = tf.ragged.boolean_mask(ids, ids != 0)[:, -LAST:]
        lengths = ids.row_lengths()
        checks = [
            require(lengths > 0, "prompt", "has no character that was in the training text"),
            require_together(tf.size(lengths), tf.reduce_max(lengths), "prompt", "characters", TOGETHER),
        ]
        with tf.control_dependencies(checks):
            return ids.to_tensor()
