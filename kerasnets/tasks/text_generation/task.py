"""Text generation, character by character."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.data.batches import check_text_length, text_batch, text_steps, to_dataset
from kerasnets.data.sources import TextSplits, load_text
from kerasnets.data.splits import SPLITS, Text, blocks
from kerasnets.data.text_file import EncodedText
from kerasnets.tasks.arrays import ArrayNetwork
from kerasnets.tasks.datasets import check_dataset
from kerasnets.tasks.graphs import cached_per_model
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.protocol import Signatures, Task
from kerasnets.tasks.requests import MAX_BYTES, row_limit
from kerasnets.tasks.samples import Samples
from kerasnets.tasks.share import WHOLE, Share
from kerasnets.tasks.text_generation.arrays import text_and_states_to_logits, text_to_logits
from kerasnets.tasks.text_generation.drawings import draw_reading
from kerasnets.tasks.text_generation.facts import FACTS, TextGeneration
from kerasnets.tasks.text_generation.signatures import MAX_CHARACTERS, TextSignatures
from kerasnets.tasks.text_generation.state import state_size
from kerasnets.tasks.text_generation.step import FUSED_STEPS, plain_step
from kerasnets.text.characters import CharacterVocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, SAMPLE_LENGTH = 2, 150  # of `samples`: the number of prompts, and the characters that follow each
WINDOW = 256  # characters of a window that is scored without earlier text
EXAMPLE_CHARACTERS = 10_000_000  # of each split in which examples are searched
WORST = 20  # windows with the highest loss


class TextGenerationTask(Task):
    """Train a network that predicts the next character of a plain text; score nats per character.

    A `CharLSTM` is trained by truncated backpropagation with carried states, a `DecoderTransformer` on sequences
    without earlier text.
    """

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
        return CharacterVocabulary.build(blocks(self.data.train))

    def save(self, directory: Path) -> None:
        self.vocabulary.save(directory / FACTS.vocabulary_file)

    def check(self) -> None:
        super().check()
        if not any(map(self._readable, blocks(self.data.validation[1:]))):  # the first character is not predicted
            raise RequestError("the validation text has no character of the training text; give another text.")
        check_text_length(self._training_ids, self.config.training.batch_size, self.config.sequence_length)

    def model(self) -> keras.Model:
        return self.config.model.build(vocabulary_size=self.vocabulary.size)

    @functools.cached_property
    def _training_ids(self) -> EncodedText:
        return self._encode(self.data.train)

    def _encode(self, text: Text) -> EncodedText:
        return EncodedText(text, self.vocabulary.encode_python)

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

    def initial_carry(self) -> Any:
        rows = self.config.training.batch_size
        carried = self.config.model.carried
        return [tuple(np.zeros((rows, size), np.float32) for size in sizes) for sizes in carried] or ()

    def loss(self, model: keras.Model, batch: Any, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        if carry:
            keep = tf.cast(~batch["reset"], tf.float32)[:, tf.newaxis]  # an epoch starts from zero states
            states = tf.nest.map_structure(lambda state: state * keep, carry)
            logits, carry = model.run(batch["inputs"], states, training=training)
        else:
            logits = model(batch["inputs"], training=training)
        losses = cross_entropy(logits, batch["targets"], self.config.training.label_smoothing)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), carry

    def validate(self, model: keras.Model, share: Share = WHOLE) -> dict[str, float]:
        """As `evaluate`, but on 16 parts of the text in parallel, for speed."""
        ids = self._encode(self.data.validation)
        return loss_metrics(self._score(model, ids, parallel_parts(ids), share))

    def _score(self, model: keras.Model, ids: EncodedText, rows: int, share: Share = WHOLE) -> float:
        """-> mean loss in nats per character of `rows` equal parts of the text, each read once with carried states.

        Every character but the first of a part is predicted from all earlier ones of the part by an LSTM. A Transformer
        of L blocks and context C attends to the last C characters in each block, so that L (C - 1) + 1 can count.
        """
        own = range(share.index, rows, share.count)
        states, total, count = model.initial_states(len(own)), 0.0, 0
        for inputs, targets in windows(ids, rows) if own else ():
            loss, states = self._losses(model)(tf.constant(inputs[own]), tf.constant(targets[own]), states)
            total, count = total + float(loss), count + targets[own].size
        total, count = share.sum(np.array([total, count]))
        return float(total / count)

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
        ids = self._encode(self.data.validation)
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
        """-> loss (nats per character) and bits_per_character of one pass over the split with carried states, which
        need `model`; window_loss, over windows of 256 characters that each start without earlier text, from the
        calibrated probabilities of `explain`, and the windows where it is highest."""
        data = self.data.first(limit)
        text = getattr(data, split)
        ids = self._encode(text)
        metrics: dict[str, Any] = {} if model is None else loss_metrics(self._score(model, ids, rows=1))
        if len(ids) > WINDOW:
            losses = window_losses(signatures["explain"], text)
            metrics["window_loss"] = float(losses.mean())
            metrics["worst_examples"] = worst_windows(losses, text)
        elif model is None:
            raise RequestError(f"the {split} split has {len(ids)} characters; a SavedModel is scored on {WINDOW + 1}.")
        return metrics | {
            "characters": len(ids) - 1,
            "bytes": sum(len(block.encode()) for block in blocks(text)),
            "unknown_characters": sum(int((self.vocabulary.encode_python(block) == 0).sum()) for block in blocks(text)),
            "scored": f"{data.parts[split]}, except its first character, which has no context",
        }

    def signatures(self, model: keras.Model) -> dict[str, Any]:
        return self._signatures(model).signatures()

    def defaults(self, model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        return self._signatures(model).defaults()

    def _signatures(self, model: keras.Model) -> TextSignatures:
        make_step = FUSED_STEPS.get(self.config.model.kind, plain_step)
        return TextSignatures(model, make_step, self.vocabulary, self.config.max_length, self.temperature)

    def tables(self) -> CharacterVocabulary:
        return self.vocabulary

    def array_network(self, model: keras.Model) -> ArrayNetwork:
        return text_and_states_to_logits(model) if self.config.model.recurrent else text_to_logits(model)

    @property
    def card_values(self) -> dict[str, Any]:
        rows = row_limit(state_size(self.vocabulary.size, self.config.model))
        limits = {"rows": rows, "bytes": MAX_BYTES, "characters": MAX_CHARACTERS}
        return limits | {"explanation": self.config.model.explanation}

    def examples(self) -> list[dict[str, Any]]:
        """-> starts of lines with words, spread over the test text or the first other split that has any; otherwise the
        first characters that are not blank."""
        texts = [str(getattr(self.data, name)[:EXAMPLE_CHARACTERS]) for name in reversed(SPLITS)]
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

    def draw_explanation(self, signatures: Signatures, value: str) -> Figure:
        """A text -> how the network reads it."""
        outputs = signatures["explain"](text=tf.constant([value.encode()]))
        return draw_reading({name: output.numpy() for name, output in outputs.items()})


def parallel_parts(ids: EncodedText) -> int:
    """-> the number of parts of a text that `validate` reads in parallel."""
    return min(16, len(ids) // 2)


def windows(ids: np.ndarray | EncodedText, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split a text into `rows` equal parts, to be read in parallel; -> for each window, inputs and targets, each
    [rows, at most WINDOW]."""
    length = (len(ids) - 1) // rows
    for start in range(0, length, WINDOW):
        stop = min(start + WINDOW, length)
        part = ids[np.arange(rows)[:, np.newaxis] * length + np.arange(start, stop + 1)]
        yield part[:, :-1], part[:, 1:]


def score(model: keras.Model, inputs: tf.Tensor, targets: tf.Tensor, states: Any) -> tuple[tf.Tensor, Any]:
    """inputs and targets int [B, T] -> summed loss, states."""
    logits, states = model.run(inputs, states, training=False)
    return tf.reduce_sum(cross_entropy(logits, targets)), states


def loss_metrics(loss: float) -> dict[str, float]:
    return {"loss": loss, "bits_per_character": loss / math.log(2)}


def window_losses(explain: Callable, text: Text) -> np.ndarray:
    """-> mean loss in nats per character of each window of the text, float64 [windows], each without earlier text; its
    first character is not predicted."""
    starts = range(0, len(text) - WINDOW, WINDOW)
    losses = []
    for first in range(0, len(starts), 64):
        parts = [str(text[start : start + WINDOW + 1]) for start in starts[first : first + 64]]
        probability = explain(text=tf.constant(parts))["probability"].numpy()
        logs = np.log(np.maximum(probability[:, 1:], np.finfo(np.float32).tiny), dtype=np.float64)
        losses.append(-logs.mean(axis=1))
    return np.concatenate(losses)


def worst_windows(losses: np.ndarray, text: Text) -> list[dict[str, Any]]:
    """-> the windows with the highest loss, in nats per character, by the position of their first character."""
    starts = np.argsort(-losses, kind="stable")[:WORST] * WINDOW
    return [
        {
            "loss": round(float(losses[start // WINDOW]), 4),
            "position": int(start),
            "passage": str(text[int(start) : int(start) + WINDOW + 1]),
        }
        for start in starts
    ]
