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
    broadcast_rows,
    require,
    require_bytes,
    require_padded_size,
    require_rows,
    require_text,
    row_limit,
)
from kerasnets.tasks.text_generation.state import StateLayout
from kerasnets.tasks.text_generation.step import Step
from kerasnets.text.characters import CharacterVocabulary

MAX_CONTEXT = 1000  # last characters of a prompt, the only ones that the network reads: bounds the work of a request
MAX_PROMPT_BYTES = 100_000  # of a whole prompt
MAX_CHARACTERS = 1_000_000  # rows times the longest prompt, or times the characters to generate: bounds the time
READ_CHUNK = 20_000  # characters of prompts that the network reads at once: bounds the memory
MAX_EXPLAIN_LENGTH = 1000  # characters of a text for `explain`
MAX_EXPLAIN_CHARACTERS = 20_000  # rows times the characters of the longest: bounds the memory of the response
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
    """Args: model: a `TextNetwork`; make_step: from the model its step for generation; limit: maximum characters per
    call; temperature: of the calibrated probabilities."""

    def __init__(
        self,
        model: keras.Model,
        make_step: Callable[[keras.Model], Step],
        vocabulary: CharacterVocabulary,
        limit: int,
        temperature: float,
    ):
        self.model, self.make_step, self.vocabulary = model, make_step, vocabulary
        self.limit, self.temperature = limit, temperature
        self.layout = StateLayout(model, vocabulary.characters)
        self.max_rows = row_limit(self.layout.size)  # a state is the largest output except those of `explain`
        self.state = tf.TensorSpec((None, self.layout.size), tf.float32, "state")
        # One graph for all signatures that generate text.
        self.sample_graph = tf.function(self.sample, [PROMPT, *OPTIONS.values(), self.state])

    def signatures(self) -> dict[str, Any]:
        specs = [PROMPT, *(spec for name, spec in OPTIONS.items() if name != "repetition_penalty")]
        return {
            "serving_default": tf.function(self.serving_default, [PROMPT]),
            "generate": tf.function(self.generate, specs),
            "next_char": tf.function(self.next_char, [PROMPT]),
            "stream": tf.function(self.stream, [*specs, self.state]),
            "sample": self.sample_graph,
            "explain": tf.function(self.explain, [tf.TensorSpec((None,), tf.string, "text")]),
        }

    def defaults(self) -> dict[str, dict[str, np.ndarray]]:
        """-> the values that TensorFlow Serving uses for omitted inputs."""
        options = {name: value.copy() for name, value in DEFAULTS.items()}
        options["length"] = np.minimum(options["length"], self.limit)
        sample = options | {"state": np.zeros((1, self.layout.size), np.float32)}
        generate = {name: value for name, value in options.items() if name != "repetition_penalty"}
        return {"generate": generate, "stream": generate | {"state": sample["state"]}, "sample": sample}

    def serving_default(self, prompt):
        return {"text": self.generate(prompt, **self.defaults()["generate"])["text"]}

    def generate(self, prompt, length, temperature, top_k, top_p, seed):
        penalty, state = DEFAULTS["repetition_penalty"], tf.zeros([1, self.layout.size])
        outputs = self.sample_graph(prompt, length, temperature, top_k, top_p, penalty, seed, state)
        return {name: outputs[name] for name in ("text", "log_probability")}

    def stream(self, prompt, length, temperature, top_k, top_p, seed, state):
        penalty = DEFAULTS["repetition_penalty"]
        outputs = self.sample_graph(prompt, length, temperature, top_k, top_p, penalty, seed, state)
        return {name: outputs[name] for name in ("text", "state")}

    def sample(self, prompt, length, temperature, top_k, top_p, repetition_penalty, seed, state):
        """Generate text, with every option. A row with a non-zero state continues from it and ignores its prompt."""
        prompt = require_bytes(require_rows(prompt, "prompt", self.max_rows), "prompt", MAX_PROMPT_BYTES)
        options = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        options |= {"repetition_penalty": repetition_penalty, "seed": seed, "state": state}
        options = {name: broadcast_rows(tf.convert_to_tensor(x), name, prompt, "prompt") for name, x in options.items()}
        with tf.control_dependencies(self.checks(options)):  # check before any computation
            options = {name: tf.identity(x) for name, x in options.items()}
        length, seed = options["length"], options["seed"]
        state = self.layout.unpack(options["state"])
        previous = state.token, state.cache, state.seen
        first, cache, seen = tf.cond(
            tf.reduce_all(state.started), lambda: previous, lambda: self.start_rows(prompt, state.started, previous)
        )
        sampling = decoding.Options(*(options[name] for name in decoding.Options._fields))
        positions = state.position[:, tf.newaxis] + tf.range(tf.cast(tf.reduce_max(length), tf.int64))
        random_numbers = decoding.uniform(seed, positions)
        step = self.make_step(self.model)
        tokens, log_probability, cache = decoding.sample(step, (), cache, first, length, sampling, random_numbers, seen)
        last = tf.gather(tokens, length - 1, batch_dims=1)
        position = state.position + tf.cast(length, tf.int64)
        return {
            "text": tf.strings.reduce_join(tf.where(tokens == 0, "", self.vocabulary.pieces(tokens)), axis=-1),
            "log_probability": log_probability,
            "state": self.layout.pack(last, position, seen | self.occurrences(tokens), cache),
        }

    def start_rows(self, prompt, started, previous):
        """-> last character [B], the cache before it, and the seen characters bool [B, V]: those of `previous` for
        rows that have started, computed from their prompts for the others."""
        # Rows that have started may have an invalid prompt: replace it by a valid one.
        ids = self.read(tf.where(started, self.vocabulary.characters[1], prompt))
        last, cache = self.start(ids)
        cache = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), cache)
        return tf.nest.map_structure(
            lambda old, new: tf.raw_ops.Select(condition=started, x=old, y=new),
            previous,
            (last, cache, self.occurrences(ids)),
        )

    def occurrences(self, ids):
        """ids int32 [B, T], 0 = none -> bool [B, V]: whether each character of the vocabulary occurs."""
        rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, tf.newaxis], tf.shape(ids))
        shape = [tf.shape(ids)[0], self.vocabulary.size]
        counts = tf.tensor_scatter_nd_add(tf.zeros(shape, tf.int32), tf.stack([rows, ids], axis=-1), tf.sign(ids))
        return tf.ensure_shape(counts > 0, [None, self.vocabulary.size])

    def checks(self, options: dict[str, tf.Tensor]) -> list[tf.Operation]:
        """options: each [B] -> control dependencies that fail for values out of range or too much work."""

        def check(name: str, valid: Callable[[tf.Tensor], tf.Tensor], allowed: str) -> tf.Operation:
            return require(valid(options[name]), name, f"but must be {allowed}", options[name])

        def finite(x):
            return tf.math.is_finite(x)

        length = options["length"]
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
            require_padded_size(
                tf.size(length), tf.reduce_max(length), "prompt", "characters to generate", MAX_CHARACTERS
            ),
        ]

    def next_char(self, prompt):
        """-> calibrated probabilities of all characters except the unknown one, highest first."""
        last, cache = self.start(self.read(prompt))
        logits, _ = self.model.step(last, 0, (), cache)
        probabilities = tf.nn.softmax(logits[:, 1:] / self.temperature)
        probabilities, best = tf.math.top_k(probabilities, self.vocabulary.size - 1)
        return {"characters": self.vocabulary.pieces(best + 1), "probabilities": probabilities}

    def explain(self, text):
        """-> characters, their calibrated probabilities, and what the network shows of itself (gates and cells, or
        attention weights); "" and zeros after the end of a row."""
        ids = self.vocabulary.encode(
            require_text(text, "text", 4 * MAX_EXPLAIN_LENGTH, allow_blank=True)
        )  # at most 4 bytes per character in UTF-8
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        checks = [
            require(
                lengths <= MAX_EXPLAIN_LENGTH,
                "text",
                f"characters long, more than the limit of {MAX_EXPLAIN_LENGTH:,}",
                lengths,
            ),
            require_padded_size(tf.size(lengths), tf.reduce_max(lengths), "text", "characters", MAX_EXPLAIN_CHARACTERS),
        ]
        with tf.control_dependencies(checks):
            dense = ids.to_tensor()
        valid = tf.sequence_mask(lengths, tf.shape(dense)[1])
        logits, explanation = self.model.explain(dense)
        probability = tf.gather(tf.nn.softmax(logits / self.temperature), dense, batch_dims=2)
        outputs = {"probability": probability} | explanation
        valid_of = {name: valid[(..., *[tf.newaxis] * (x.shape.rank - 2))] for name, x in outputs.items()}
        return {"characters": tf.where(valid, self.vocabulary.pieces(dense), "")} | {
            name: tf.where(valid_of[name], x, 0.0) for name, x in outputs.items()
        }

    def start(self, ids):
        """ids int32 [B, T], 0 = padding at the end -> last id of each row [B]; the cache before it."""
        lengths = tf.reduce_sum(tf.cast(ids != 0, tf.int32), axis=1)
        rows, longest = tf.unstack(tf.shape(ids))
        before = tf.where(tf.sequence_mask(lengths - 1, longest), ids, 0)
        longest_chunk = self.model.context or READ_CHUNK  # attention has a weight for each pair of characters
        size = tf.clip_by_value(READ_CHUNK // rows, 1, longest_chunk)

        def read_chunk(start, cache):
            part = before[:, start : start + size]
            return start + size, self.model.run(part, cache, valid=part != 0)[1]

        variables = (tf.constant(0), self.model.initial_states(rows))
        _, cache = loop(lambda start, _: start < longest, read_chunk, variables)
        return tf.gather(ids, lengths - 1, batch_dims=1), cache

    def read(self, prompt):
        """prompt string [B] -> ids int32 [B, T], 0 = padding at the end.

        Unknown characters are removed; only the last 1,000 of the others are used.
        """
        ids = self.vocabulary.encode(require_text(prompt, "prompt", MAX_PROMPT_BYTES, self.max_rows, allow_blank=True))
        ids = tf.ragged.boolean_mask(ids, ids != 0)[:, -MAX_CONTEXT:]
        lengths = ids.row_lengths()
        checks = [
            require(lengths > 0, "prompt", "has no character that was in the training text"),
            require_padded_size(tf.size(lengths), tf.reduce_max(lengths), "prompt", "characters", MAX_CHARACTERS),
        ]
        with tf.control_dependencies(checks):
            return ids.to_tensor()
