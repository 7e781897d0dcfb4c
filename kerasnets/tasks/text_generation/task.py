"""Text generation, character by character."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.data.batches import check_text_length, text_batch, text_steps, to_dataset
from kerasnets.data.sources import TextSplits, load_text
from kerasnets.data.splits import SPLITS
from kerasnets.tasks.arrays import ArrayNetwork
from kerasnets.tasks.datasets import check_dataset
from kerasnets.tasks.graphs import cached_per_model
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.protocol import Signatures, Task
from kerasnets.tasks.requests import MAX_BYTES, row_limit
from kerasnets.tasks.samples import Samples
from kerasnets.tasks.text_generation.arrays import text_to_logits
from kerasnets.tasks.text_generation.facts import FACTS, TextGeneration
from kerasnets.tasks.text_generation.signatures import MAX_CHARACTERS, TextSignatures
from kerasnets.tasks.text_generation.state import state_size
from kerasnets.text.characters import CharacterVocabulary

SAMPLES, SAMPLE_LENGTH = 2, 150  # of `samples`: the number of prompts, and the characters that follow each
WINDOW = 256  # characters of a window that is scored from a zero state


class TextGenerationTask(Task):
    """Train a `CharLSTM` on a plain text by truncated backpropagation with carried states; score nats per character."""

    facts = FACTS
    best_metric = "loss"
    best_is = "lowest"
    weight_unit = "characters"
    config: TextGeneration

    @functools.cached_property
    def data(self) -> TextSplits:
        check_dataset(FACTS, self.config.dataset)
        return load_text(self.config.dataset, self.config.data_dir)

    @functools.cached_property
    def vocabulary(self) -> CharacterVocabulary:
        if self.directory is not None:
            return CharacterVocabulary.load(self.directory / FACTS.vocabulary_file)
        return CharacterVocabulary.build(self.data.train)

    def save(self, directory: Path) -> None:
        self.vocabulary.save(directory / FACTS.vocabulary_file)

    def check(self) -> None:
        super().check()
        if not self._readable(self.data.validation[1:]):  # the first character is not predicted
            raise RequestError("the validation text has no character of the training text; give another text.")
        check_text_length(self._training_ids, self.config.training.batch_size, self.config.sequence_length)

    def model(self) -> keras.Model:
        return self.config.model.build(vocabulary_size=self.vocabulary.size)

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
        keep = tf.cast(~batch["reset"], tf.float32)[:, tf.newaxis]  # an epoch starts from zero states
        states = [(h * keep, c * keep) for h, c in carry]
        logits, states = model.run(batch["inputs"], states, training=training)
        losses = cross_entropy(logits, batch["targets"], self.config.training.label_smoothing)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), states

    def validate(self, model: keras.Model) -> dict[str, float]:
        """As `evaluate`, but on 16 parts of the text in parallel, for speed."""
        ids = self.vocabulary.encode_python(self.data.validation)
        return loss_metrics(self._score(model, ids, rows=parallel_parts(ids)))

    def _score(self, model: keras.Model, ids: np.ndarray, rows: int) -> float:
        """-> mean loss in nats per character of `rows` equal parts of the text, each read once with carried state."""
        states, total, count = model.initial_states(rows), 0.0, 0
        for inputs, targets in windows(ids, rows):
            loss, states = self._losses(model)(tf.constant(inputs), tf.constant(targets), states)
            total, count = total + float(loss), count + targets.size
        return total / count

    def samples(self, model: keras.Model) -> Samples:
        """-> continuations of the first examples, with the default temperature and fixed seeds."""
        prompts = self._sample_prompts
        length = np.array([min(SAMPLE_LENGTH, self.config.max_length)], np.int32)
        seed = np.arange(len(prompts), dtype=np.int64)
        options = self.defaults(model)["generate"] | {"length": length, "seed": seed}
        texts = self._generate(model)(tf.constant(prompts), **options)["text"].numpy()
        rows = [{"prompt": prompt, "generated": text.decode()} for prompt, text in zip(prompts, texts, strict=True)]
        return Samples(f"continuations of prompts, with temperature {options['temperature'].item():.1f}", rows)

    @functools.cached_property
    def _sample_prompts(self) -> list[str]:
        return [example["prompt"] for example in self.examples()[:SAMPLES]]

    @cached_per_model
    def _generate(self, model: keras.Model) -> Callable:
        return self.signatures(model)["generate"]

    @cached_per_model
    def _losses(self, model: keras.Model) -> Callable:
        """-> `score` of the model."""
        return tf.function(functools.partial(score, model), reduce_retracing=True)

    def validation_logits(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits [N, V - 1] and target characters [N] of the validation text, read as in `validate`, window by
        window. Id 0, the unknown character, is left out because it is never generated."""
        ids = self.vocabulary.encode_python(self.data.validation)
        rows = parallel_parts(ids)
        states = model.initial_states(rows)
        for inputs, labels in windows(ids, rows):
            logits, states = self._logits(model)(tf.constant(inputs), states)
            yield logits.numpy()[labels != 0][:, 1:], labels[labels != 0] - 1

    @cached_per_model
    def _logits(self, model: keras.Model) -> Callable:
        """-> the model as a graph function, traced at most once per shape."""
        return tf.function(lambda ids, states: model.run(ids, states, training=False), reduce_retracing=True)

    def evaluate(
        self, signatures: Signatures, split: str, model: keras.Model | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """-> loss (nats per character) and bits_per_character of one pass over the split with carried state, which need
        `model`; window_loss, over windows of 256 characters that each start from a zero state, from the calibrated
        probabilities of `explain`."""
        data = self.data.first(limit)
        text = getattr(data, split)
        ids = self.vocabulary.encode_python(text)
        metrics = {} if model is None else loss_metrics(self._score(model, ids, rows=1))
        if len(ids) > WINDOW:
            metrics["window_loss"] = window_loss(signatures["explain"], text)
        elif model is None:
            raise RequestError(f"the {split} split has {len(ids)} characters; a SavedModel is scored on {WINDOW + 1}.")
        return metrics | {
            "characters": len(ids) - 1,
            "bytes": len(text.encode()),
            "unknown_characters": int((ids == 0).sum()),
            "scored": f"{data.parts[split]}, except its first character, which has no context",
        }

    def signatures(self, model: keras.Model) -> dict[str, Any]:
        return self._signatures(model).signatures()

    def defaults(self, model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        return self._signatures(model).defaults()

    def _signatures(self, model: keras.Model) -> TextSignatures:
        return TextSignatures(model, self.vocabulary, self.config.max_length, self.temperature)

    def tables(self) -> CharacterVocabulary:
        return self.vocabulary

    def array_network(self, model: keras.Model) -> ArrayNetwork:
        return text_to_logits(model)

    @property
    def card_values(self) -> dict[str, Any]:
        rows = row_limit(state_size(self.vocabulary.size, self.config.model))
        return {"rows": rows, "bytes": MAX_BYTES, "characters": MAX_CHARACTERS}

    def examples(self) -> list[dict[str, Any]]:
        """-> starts of lines with words, spread over the test text or the first other split that has any; otherwise the
        first characters that are not blank."""
        texts = [getattr(self.data, name) for name in reversed(SPLITS)]
        line_start = re.compile(r"^[A-Z](?:[a-z]+|(?=\s))(?:[ ,]+[A-Za-z]+){1,4}", re.MULTILINE)
        for text in texts:
            lines = [line for line in dict.fromkeys(line_start.findall(text)) if self._readable(line)]
            count = min(5, len(lines))
            if lines:
                return [{"prompt": lines[n * len(lines) // count]} for n in range(count)]
        parts = (text[match.start() :][:40].strip() for text in texts if (match := re.search(r"\S", text)))
        prompt = next((part for part in parts if self._readable(part)), None)
        if prompt is None:
            raise RequestError("the text has no characters that can serve as a prompt; give another text.")
        return [{"prompt": prompt}]

    def _readable(self, text: str) -> bool:
        """Whether the text has a known character."""
        return bool(self.vocabulary.encode_python(text).any())

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> a request for each signature, built from the examples."""
        prompts = np.array([example["prompt"] for example in examples], object)
        rows, length = len(prompts), min(50, self.config.max_length)
        generate = {
            "prompt": prompts,
            "length": np.full(rows, length, np.int32),
            "temperature": np.linspace(0, 1, rows, dtype=np.float32),
            "top_k": np.full(rows, 10, np.int32),
            "top_p": np.full(rows, 0.9, np.float32),
            "seed": np.arange(rows, dtype=np.int64),
        }
        state = np.zeros((rows, state_size(self.vocabulary.size, self.config.model)), np.float32)
        unlimited = {"top_k": np.zeros(rows, np.int32), "top_p": np.ones(rows, np.float32)}
        return {
            "serving_default": {"prompt": prompts},
            "generate": generate,
            "next_char": {"prompt": prompts},
            "stream": generate | unlimited | {"state": state},
            "sample": generate | {"repetition_penalty": np.full(rows, 1.2, np.float32), "state": state},
            "explain": {"text": prompts},
        }

    def predict(self, signatures: Signatures, value: str) -> str:
        """A prompt -> the prompt with its continuation."""
        return value + signatures["serving_default"](prompt=tf.constant([value.encode()]))["text"][0].numpy().decode()


def parallel_parts(ids: np.ndarray) -> int:
    """-> the number of parts of a text that `validate` reads in parallel."""
    return min(16, len(ids) // 2)


def windows(ids: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split a text into `rows` equal parts, to be read in parallel; -> for each window, inputs and targets, each
    [rows, at most WINDOW]."""
    length = (len(ids) - 1) // rows
    inputs, targets = (ids[n : n + rows * length].reshape(rows, length) for n in (0, 1))
    for start in range(0, length, WINDOW):
        part = np.s_[:, start : start + WINDOW]
        yield inputs[part], targets[part]


def score(model: keras.Model, inputs: tf.Tensor, targets: tf.Tensor, states: Any) -> tuple[tf.Tensor, Any]:
    """inputs and targets int [B, T] -> summed loss, states."""
    logits, states = model.run(inputs, states, training=False)
    return tf.reduce_sum(cross_entropy(logits, targets)), states


def loss_metrics(loss: float) -> dict[str, float]:
    return {"loss": loss, "bits_per_character": loss / math.log(2)}


def window_loss(explain: Callable, text: str) -> float:
    """-> mean loss in nats per character of windows of the text that each start from a zero state; the first character
    of each is not predicted."""
    starts = range(0, len(text) - WINDOW, WINDOW)
    parts = [text[start : start + WINDOW + 1] for start in starts]
    total = 0.0
    for first in range(0, len(parts), 64):
        probability = explain(text=tf.constant(parts[first : first + 64]))["probability"].numpy()
        total -= float(np.log(np.maximum(probability[:, 1:], np.finfo(np.float32).tiny), dtype=np.float64).sum())
    return total / (len(parts) * WINDOW)
