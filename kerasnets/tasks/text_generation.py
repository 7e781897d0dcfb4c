"""Text generation: the next character of a text, and the one after it."""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets import calibration, decoding
from kerasnets.checks import RequestError
from kerasnets.config import TextGeneration
from kerasnets.data.batches import text_batch, text_steps, to_dataset
from kerasnets.data.sources import TextSplits, load_text
from kerasnets.models import CharLSTM
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.requests import require, require_rows, require_text
from kerasnets.text import CharacterVocabulary

FILE = "characters.json"
PROMPT = 1000  # characters of a prompt that count, the last ones: they bound the work that a request can ask for
WINDOW = 256  # characters of a window that is scored from an empty state
LENGTH, TEMPERATURE = 200, 0.8  # what `serving_default` generates with


class TextGenerationTask:
    """A plain text; `CharLSTM`, trained by truncated back-propagation with carried states; nats per character."""

    name = "text_generation"
    best, best_is = "loss", "lowest"

    def __init__(self, config: TextGeneration, directory: Path | None = None):
        self.config, self.directory = config, directory

    @functools.cached_property
    def data(self) -> TextSplits:
        return load_text(self.config.dataset, self.config.data_dir)

    @functools.cached_property
    def vocabulary(self) -> CharacterVocabulary:
        if self.directory is not None:
            return CharacterVocabulary.load(self.directory / FILE)
        return CharacterVocabulary.build(self.data.train)

    def save(self, directory: Path) -> None:
        self.vocabulary.save(directory / FILE)

    def split_sizes(self) -> dict[str, Any]:
        return {name: len(getattr(self.data, name)) for name in ("train", "validation", "test")} | {
            "description": self.data.description
        }

    def model(self) -> keras.Model:
        model = CharLSTM(self.vocabulary.size, **vars(self.config.model))
        model.build((None, None))
        return model

    @functools.cached_property
    def _training_ids(self) -> np.ndarray:
        return self.vocabulary.encode_python(self.data.train)

    @property
    def steps_per_epoch(self) -> int:
        return text_steps(self._training_ids, self.config.training.batch_size, self.config.sequence_length)

    @property
    def examples_per_step(self) -> int:
        """Characters."""
        return self.config.training.batch_size * self.config.sequence_length

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        def batch(step: int) -> dict[str, np.ndarray]:
            rows, length = self.config.training.batch_size, self.config.sequence_length
            return text_batch(self._training_ids, rows, length, self.config.seed, step)

        return to_dataset(batch, start, stop)

    def initial_carry(self) -> list[tuple[np.ndarray, np.ndarray]]:
        shape = self.config.training.batch_size, self.config.model.units
        return [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(self.config.model.num_layers)]

    def loss(self, model: keras.Model, batch: Any, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        kept = tf.cast(~batch["reset"], tf.float32)[:, tf.newaxis]  # an epoch starts from empty states
        states = [(h * kept, c * kept) for h, c in carry]
        logits, states = model.run(batch["inputs"], states, training=training)
        losses = cross_entropy(logits, batch["targets"], self.config.training.label_smoothing)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), states

    def validate(self, model: keras.Model) -> dict[str, float]:
        """As `evaluate`, but from 16 places of the text at once, for speed."""
        ids = self.vocabulary.encode_python(self.data.validation)
        return per_character(self._score(model, ids, rows=min(16, len(ids) // 2)))

    def _score(self, model: keras.Model, ids: np.ndarray, rows: int) -> float:
        """-> mean loss in nats per character of `rows` equal parts of the text, each read in one pass."""
        if getattr(self, "_scores", (None,))[0] is not model:
            self._scores = model, tf.function(functools.partial(score, model), reduce_retracing=True)
        length = (len(ids) - 1) // rows
        inputs = ids[: rows * length].reshape(rows, length)
        targets = ids[1 : rows * length + 1].reshape(rows, length)
        states, total = model.initial_states(rows), 0.0
        for start in range(0, length, WINDOW):
            part = np.s_[:, start : start + WINDOW]
            loss, states = self._scores[1](tf.constant(inputs[part]), tf.constant(targets[part]), states)
            total += float(loss)
        return total / (rows * length)

    @functools.cached_property
    def temperature(self) -> float:
        """What the signatures divide logits by (see `kerasnets.calibration`)."""
        return calibration.load(self.directory)

    def held_out(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits [N, V - 1] and the characters [N] that they should tell, of the validation text as `validate` reads
        it, a window at a time. Id 0, which stands for unknown characters and is never written, is left out."""
        ids = self.vocabulary.encode_python(self.data.validation)
        rows = min(16, len(ids) // 2)
        length = (len(ids) - 1) // rows
        inputs = ids[: rows * length].reshape(rows, length)
        targets = ids[1 : rows * length + 1].reshape(rows, length)
        states = model.initial_states(rows)
        for start in range(0, length, WINDOW):
            labels = targets[:, start : start + WINDOW]
            logits, states = self._logits(model)(tf.constant(inputs[:, start : start + WINDOW]), states)
            yield logits.numpy()[labels != 0][:, 1:], labels[labels != 0] - 1

    @functools.lru_cache(maxsize=1)  # noqa: B019 (a task lives as long as its program)
    def _logits(self, model: keras.Model) -> Callable:
        """-> the model as a graph that is traced once a shape, however often it is called for."""
        return tf.function(lambda ids, states: model.run(ids, states, training=False), reduce_retracing=True)

    def _score_windows(self, model: keras.Model, ids: np.ndarray) -> float:
        """-> mean loss in nats per character of windows that each start from an empty state."""
        count = (len(ids) - 1) // WINDOW
        inputs = ids[: count * WINDOW].reshape(count, WINDOW)
        targets = ids[1 : count * WINDOW + 1].reshape(count, WINDOW)
        total = 0.0
        for start in range(0, count, 64):
            part = inputs[start : start + 64]
            states = model.initial_states(len(part))
            total += float(score(model, tf.constant(part), tf.constant(targets[start : start + 64]), states)[0])
        return total / (count * WINDOW)

    def evaluate(
        self, signatures: Mapping[str, Callable], split: str, model: keras.Model | None = None
    ) -> dict[str, Any]:
        """-> loss (nats a character) and bits_per_character of one pass over the split with carried state;
        window_loss, of windows of 256 characters that each start from an empty state."""
        if model is None:
            raise RequestError(
                "no signature of this SavedModel scores a text; give the directory of the training run instead."
            )
        text = getattr(self.data, split)
        ids = self.vocabulary.encode_python(text)
        metrics = per_character(self._score(model, ids, rows=1))
        if len(ids) > WINDOW:
            metrics["window_loss"] = self._score_windows(model, ids)
        return metrics | {
            "characters": len(ids) - 1,
            "bytes": len(text.encode()),
            "unknown_characters": int((ids == 0).sum()),
            "scored": f"{self.data.parts[split]}, but for the first character, which has nothing before it",
        }

    def signatures(self, model: keras.Model) -> dict[str, Any]:
        limit = self.config.max_length

        @tf.function(
            input_signature=[
                tf.TensorSpec((None,), dtype, name)
                for name, dtype in [
                    ("prompt", tf.string),
                    ("length", tf.int32),
                    ("temperature", tf.float32),
                    ("top_k", tf.int32),
                    ("top_p", tf.float32),
                    ("seed", tf.int64),
                ]
            ]
        )
        def generate(prompt, length, temperature, top_k, top_p, seed):
            prompt = require_rows(prompt, "prompt")
            checks = [
                require((length >= 1) & (length <= limit), "length", f"but must be in 1 to {limit}", length),
                require(
                    tf.math.is_finite(temperature) & (temperature >= 0),
                    "temperature",
                    "but must be a number from 0 (the most probable character) up",
                    temperature,
                ),
                require(top_k >= 0, "top_k", "but must be 0 (no limit) or more", top_k),
                require((top_p > 0) & (top_p <= 1), "top_p", "but must be above 0 and at most 1 (no limit)", top_p),
            ]
            with tf.control_dependencies(checks):
                context, last = self.read(prompt)
            memory, cache = model.start(context, limit)
            tokens, log_probability = decoding.sample(
                functools.partial(step, model),
                memory,
                cache,
                last,
                length,
                temperature,
                top_k,
                top_p,
                decoding.uniform(seed, limit),
            )
            characters = tf.where(tokens == 0, "", self.vocabulary.pieces(tokens))
            return {"text": tf.strings.reduce_join(characters, axis=-1), "log_probability": log_probability}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "prompt")])
        def serving_default(prompt):
            def same(value, dtype):
                return tf.fill(tf.shape(prompt), tf.constant(value, dtype))

            arguments = same(min(LENGTH, limit), tf.int32), same(TEMPERATURE, tf.float32), same(0, tf.int32)
            return {"text": generate(prompt, *arguments, same(1, tf.float32), same(0, tf.int64))["text"]}

        return {"serving_default": serving_default, "generate": generate}

    def read(self, prompt: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """prompt string [B] -> ids of all but its last character int32 [B, T], 0 = padding; its last character [B].

        Only the last 1,000 characters count. Characters that are not in the vocabulary are left out.
        """
        ids = self.vocabulary.encode(require_text(prompt, "prompt"))
        ids = tf.ragged.boolean_mask(ids, ids != 0)[:, -PROMPT:]
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        known = require(lengths > 0, "prompt", "has no character that was in the training text")
        with tf.control_dependencies([known]):
            dense = ids.to_tensor()
        last = tf.gather(dense, lengths - 1, batch_dims=1)
        return tf.where(tf.sequence_mask(lengths - 1, tf.shape(dense)[1]), dense, 0), last

    def examples(self) -> list[dict[str, Any]]:
        """Beginnings of lines of words of the test text, from places far apart."""
        words = (
            re.match(r"[A-Z](?:[a-z]+|(?=\s))(?:[ ,]+[A-Za-z]+){1,4}", line) for line in self.data.test.splitlines()
        )
        lines = list(dict.fromkeys(match[0] for match in words if match)) or [self.data.test[:40].strip()]
        return [{"prompt": lines[n * len(lines) // 5]} for n in range(min(5, len(lines)))]

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> a request for each signature, made of the examples."""
        prompts = np.array([example["prompt"] for example in examples], object)

        def same(value, dtype):
            return np.full(len(prompts), value, dtype)

        return {
            "serving_default": {"prompt": prompts},
            "generate": {
                "prompt": prompts,
                "length": same(min(50, self.config.max_length), np.int32),
                "temperature": np.linspace(0, 1, len(prompts), dtype=np.float32),
                "top_k": same(10, np.int32),
                "top_p": same(0.9, np.float32),
                "seed": np.arange(len(prompts), dtype=np.int64),
            },
        }

    def answer(self, signatures: Mapping[str, Callable], given: str) -> str:
        """A prompt -> the prompt with its continuation."""
        return given + signatures["serving_default"](prompt=tf.constant([given]))["text"][0].numpy().decode()


def step(model: keras.Model, token: tf.Tensor, index: tf.Tensor, memory: Any, cache: Any) -> tuple[tf.Tensor, Any]:
    """The model's step, but for id 0: it stands for unknown characters and is no character to write."""
    logits, cache = model.step(token, index, memory, cache)
    return tf.concat([tf.fill(tf.shape(logits[:, :1]), -1e9), logits[:, 1:]], axis=1), cache


def score(model: keras.Model, inputs: tf.Tensor, targets: tf.Tensor, states: Any) -> tuple[tf.Tensor, Any]:
    """inputs and targets int [B, T] -> summed loss, states."""
    logits, states = model.run(inputs, states, training=False)
    return tf.reduce_sum(cross_entropy(logits, targets)), states


def per_character(loss: float) -> dict[str, float]:
    return {"loss": loss, "bits_per_character": loss / math.log(2)}
