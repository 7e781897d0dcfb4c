"""Image classification."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.calibration.bins import expected_calibration_error
from kerasnets.checks import RequestError, check
from kerasnets.data.augmentation import cutout, mixup, random_crops, shift_and_flip
from kerasnets.data.batches import Batch, image_batch, to_dataset
from kerasnets.data.sources import ImageSplits, load_images
from kerasnets.images import decoder
from kerasnets.tasks.arrays import ArrayNetwork
from kerasnets.tasks.datasets import check_dataset
from kerasnets.tasks.graphs import cached_per_model
from kerasnets.tasks.image_classification import drawings, image_files
from kerasnets.tasks.image_classification.arrays import image_and_name_to_logits, image_to_logits
from kerasnets.tasks.image_classification.confusion import confusion_metrics, worst_images
from kerasnets.tasks.image_classification.explanations import grad_cam, gradient_times_input
from kerasnets.tasks.image_classification.facts import FACTS, ImageClassification
from kerasnets.tasks.image_classification.spelling import Spelling
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.protocol import Metrics, Signatures, Task
from kerasnets.tasks.requests import require, require_rows, row_limit
from kerasnets.tasks.samples import Samples
from kerasnets.tasks.share import WHOLE, Share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP_CLASSES = 5  # in the responses of `serving_default` and `explain`
EVALUATION_BATCH = 500
SAMPLED_IMAGES = 1000  # validation images among which `samples` looks for misclassified ones
MAX_SAMPLES = 8
MAX_REQUEST_PIXELS = 1_000_000  # of all images, at the model's size: bounds the memory of the feature maps


class ImageClassificationTask(Task):
    """Classify images [Y, X, C] into a fixed set of classes; measure accuracy and a confusion matrix."""

    facts = FACTS
    best_metric = "accuracy"
    best_is = "highest"
    weight_unit = "images"
    config: ImageClassification

    @functools.cached_property
    def data(self) -> ImageSplits:
        check_dataset(FACTS, self.config.dataset)
        config = self.config
        size = None if config.image_size is None else (config.image_size, config.image_size)
        data = load_images(config.dataset, config.data_dir, size, config.skip_unreadable)
        return data if self.directory is None else align_labels(data, self.classes)

    @functools.cached_property
    def _metadata(self) -> dict[str, Any]:
        if self.directory is None:
            return {"classes": list(self.data.classes), "shape": list(self.data.train[0].shape[1:])}
        return json.loads((self.directory / FACTS.vocabulary_file).read_text("utf-8"))

    @property
    def classes(self) -> list[str]:
        return self._metadata["classes"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels of every image."""
        return tuple(self._metadata["shape"])

    @property
    def max_rows(self) -> int:
        """Maximum images per request."""
        return row_limit(self.shape[0] * self.shape[1], MAX_REQUEST_PIXELS)

    @property
    def card_values(self) -> dict[str, Any]:
        rows, columns, channels = self.shape
        colours = "in colour" if channels == 3 else "in gray"
        shape = f"{rows} rows and {columns} columns {colours}"
        return {"rows": self.max_rows, "classes": len(self.classes), "shape": shape}

    def save(self, directory: Path) -> None:
        (directory / FACTS.vocabulary_file).write_text(
            json.dumps(self._metadata, ensure_ascii=False, indent=1), "utf-8"
        )

    def model(self) -> keras.Model:
        sizes = {"shape": self.shape, "classes": len(self.classes), "characters": self.spelling.vocabulary_size}
        return self.config.model.build(**sizes)

    @functools.cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.classes)

    @property
    def spells(self) -> bool:
        """Whether the network writes the name of the class."""
        return self.config.model.spells

    def logits(self, model: keras.Model, pixels: tf.Tensor) -> tf.Tensor:
        """pixels [B, Y, X, C] -> [B, classes], without dropout."""
        return self.spelling.logits(model, pixels) if self.spells else model(pixels, training=False)

    def check(self) -> None:
        super().check()
        side = min(self.shape[:2])
        check(self.config.cutout < side, "cutout", self.config.cutout, f"less than {side}, the side of the images")

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.data.train[1]) // self.examples_per_step)

    @property
    def examples_per_step(self) -> int:
        return self.config.training.batch_size

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        images, labels = self.data.train
        seed = self.config.seed

        def batch(step: int) -> Batch:
            return self.augment(image_batch(images, labels, self.examples_per_step, seed, step), step)

        return to_dataset(batch, start, stop)

    def augment(self, batch: Batch, step: int) -> Batch:
        """-> the batch of a step with the random changes of the options `augmentation` to `mixup`."""
        config, pixels = self.config, batch["pixels"]
        random = np.random.default_rng((config.seed, step))
        if config.crop < 1:
            pixels = random_crops(pixels, config.crop, random)
        pixels = shift_and_flip(pixels, config.augmentation, config.flip, random)
        if config.cutout:
            pixels = cutout(pixels, config.cutout, random)
        batch = batch | {"pixels": pixels}
        return mixup(batch, config.mixup, random) if config.mixup else batch

    def initial_carry(self) -> tuple:
        return ()

    def loss(self, model: keras.Model, batch: Any, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        pixels, labels, smoothing = batch["pixels"], batch["labels"], self.config.training.label_smoothing
        if self.spells:
            losses = self.spelling.losses(model, pixels, labels, smoothing, training)
        else:
            logits = model(pixels, training=training)
            losses = cross_entropy(logits, labels, smoothing)
            if "other_labels" in batch:  # mixup
                weight = batch["label_weight"]
                losses = weight * losses + (1 - weight) * cross_entropy(logits, batch["other_labels"], smoothing)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), carry

    def validation_logits(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits [N, classes] and labels [N] of the validation images, batch by batch."""
        pixels, labels = self.data.validation
        for start in range(0, len(labels), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            yield self._logits(model)(tf.constant(np.asarray(pixels[part]), tf.float32)).numpy(), labels[part]

    @cached_per_model
    def _logits(self, model: keras.Model) -> Callable:
        """-> `logits` as a graph function, traced once."""
        return tf.function(functools.partial(self.logits, model), reduce_retracing=True)

    def validate(self, model: keras.Model, share: Share = WHOLE) -> dict[str, float]:
        pixels, labels = (part[share.index :: share.count] for part in self.data.validation)
        sums = np.zeros(3)
        if len(labels):
            sums = score(self._probabilities(self._classifier(model), pixels), labels)
        return means(share.sum(sums))

    def samples(self, model: keras.Model) -> Samples:
        """-> misclassified images among the first of the validation split, those with the surest predictions."""
        pixels, labels = (part[:SAMPLED_IMAGES] for part in self.data.validation)
        probabilities = self._probabilities(self._classifier(model), pixels)
        predictions, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
        wrong = np.flatnonzero(predictions != labels)
        shown = wrong[np.argsort(-scores[wrong], kind="stable")][:MAX_SAMPLES]
        rows = [
            {
                "image": str(n),
                "label": self.classes[labels[n]],
                "prediction": self.classes[predictions[n]],
                "probability": f"{scores[n]:.2f}",
            }
            for n in shown
        ]
        which = ", the surest predictions first:" if rows else ""
        title = f"{len(wrong)} of the first {len(labels):,} validation images are misclassified{which}"
        return Samples(title, rows, pixels[shown])

    @cached_per_model
    def _classifier(self, model: keras.Model) -> Callable:
        return self.signatures(model)["pixels"]

    def _probabilities(self, classify: Callable, pixels: Any) -> np.ndarray:
        """pixels uint8 [N, Y, X, C], an array or `ImageFiles` -> [N, classes]"""
        size = min(EVALUATION_BATCH, self.max_rows)
        batches = (np.asarray(pixels[start : start + size]) for start in range(0, len(pixels), size))
        return np.concatenate(
            [classify(pixels=tf.constant(batch, tf.float32))["probabilities"].numpy() for batch in batches]
        )

    def evaluate(
        self, signatures: Signatures, split: str, model: keras.Model | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """-> accuracy, loss (nats), ece (expected calibration error), `confusion_metrics` and `worst_images`."""
        pixels, labels = getattr(self.data.first(limit), split)
        probabilities = self._probabilities(signatures["pixels"], pixels)
        return means(score(probabilities, labels)) | {
            "ece": expected_calibration_error(probabilities, labels),
            "examples": len(labels),
            "classes": self.classes,
            **confusion_metrics(probabilities, labels, self.classes),
            "worst_examples": worst_images(probabilities, labels, self.classes),
        }

    def evaluation_figures(self, metrics: Metrics) -> dict[str, Figure]:
        images, _ = getattr(self.data, metrics["split"])
        worst = images[[example["index"] for example in metrics["worst_examples"]]]
        return {"confusion": drawings.draw_confusion(metrics), "worst": drawings.draw_worst(worst, metrics)}

    def signatures(self, model: keras.Model) -> dict[str, Any]:
        shape, classes, temperature = self.shape, tf.constant(self.classes), self.temperature
        top = min(TOP_CLASSES, len(self.classes))
        file_spec = tf.TensorSpec((None,), tf.string, "image_bytes")

        def probabilities(logits):
            return tf.nn.softmax(logits / temperature)

        def best(logits):
            score, index = tf.math.top_k(probabilities(logits), top)
            return {"label": tf.gather(classes, index), "score": score}

        @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, "pixels")])
        def pixels(pixels):
            pixels = require_pixels(require_rows(pixels, "pixels", self.max_rows))
            return {"probabilities": probabilities(self.logits(model, pixels))}

        @tf.function(input_signature=[file_spec])
        def serving_default(image_bytes):
            return best(self.logits(model, self.decode(require_rows(image_bytes, "image_bytes", self.max_rows))))

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
        def classify(inputs):
            files = read_examples(require_rows(inputs, "inputs", self.max_rows))
            scores = probabilities(self.logits(model, self.decode(files)))
            return {"classes": tf.repeat(classes[tf.newaxis], tf.shape(scores)[0], axis=0), "scores": scores}

        @tf.function(input_signature=[file_spec])
        def explain(image_bytes):
            files = require_rows(image_bytes, "image_bytes", self.max_rows)
            logits, heatmap, feature_maps = self.explain(model, self.decode(files))
            return best(logits) | {"heatmap": heatmap, "feature_maps": feature_maps}

        return {"serving_default": serving_default, "pixels": pixels, "classify": classify, "explain": explain}

    def array_network(self, model: keras.Model) -> ArrayNetwork:
        to_logits = image_and_name_to_logits if self.spells else image_to_logits
        return to_logits(model, self.shape, self.config.model.recurrent)

    def explain(self, model: keras.Model, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """pixels [B, Y, X, C] -> logits; heatmap [B, Y, X], 0..1, for the best class; feature maps [B, y, x, n]."""
        if not self.config.model.has_feature_maps:
            return gradient_times_input(model, pixels)
        if self.spells:
            return grad_cam(model.encoder, functools.partial(self.spelling.logits_of_vector, model), pixels)
        return grad_cam(model, tf.identity, pixels)

    def decode(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """string [B] -> float32 [B, Y, X, C], 0..255: image files (see `image_files.decode`), converted to the model's
        size and number of channels."""
        rows, columns, channels = self.shape
        pixels = image_files.decode(image_bytes, rows, columns, "image_bytes")
        # Gray images were decoded to three equal channels; the weights of rgb_to_grayscale add up to 0.9999.
        return tf.round(tf.image.rgb_to_grayscale(pixels)) if channels == 1 else pixels

    def examples(self) -> list[dict[str, Any]]:
        """-> the first test image of each of up to ten classes, as PNG."""
        images, labels = self.data.test
        indices = [int(np.argmax(labels == label)) for label in range(len(self.classes))][:10]
        return [{"image_bytes": tf.io.encode_png(image).numpy()} for image in np.asarray(images[indices])]

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> a request for each signature, built from the examples."""
        files = np.array([example["image_bytes"] for example in examples], object)
        return {
            "serving_default": {"image_bytes": files},
            "pixels": {"pixels": self.decode(tf.constant(files)).numpy()},
            "classify": {"inputs": np.array([example_message(file) for file in files], object)},
            "explain": {"image_bytes": files},
        }

    def predict(self, signatures: Signatures, value: str) -> str:
        """The path of an image -> its best classes."""
        answer = signatures["serving_default"](image_bytes=tf.constant([read_file(value)]))
        best = zip(answer["label"][0].numpy(), answer["score"][0].numpy(), strict=True)
        return f"{value}\t" + "  ".join(f"{label.decode()} {score:.3f}" for label, score in best)

    def draw_explanation(self, signatures: Signatures, value: str) -> Figure:
        """The path of an image -> its heat map, feature maps and classes."""
        file = tf.constant([read_file(value)])
        outputs = {name: output.numpy() for name, output in signatures["explain"](image_bytes=file).items()}
        image = decoder.decode(decoder.examine(file)[0][0]).numpy()
        return drawings.draw_explanation(image, self.decode(file)[0].numpy(), outputs)


def read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); give the path of an image.") from None


def align_labels(data: ImageSplits, classes: list[str]) -> ImageSplits:
    """-> the data with labels in the order of a trained model's classes, if only the order differs."""
    if set(data.classes) != set(classes) or list(data.classes) == classes:
        return data
    labels = np.array([classes.index(name) for name in data.classes], np.int32)
    train, validation, test = ((part[0], labels[part[1]]) for part in (data.train, data.validation, data.test))
    return dataclasses.replace(data, train=train, validation=validation, test=test, classes=tuple(classes))


def require_pixels(pixels: tf.Tensor) -> tf.Tensor:
    """pixels [B, Y, X, C] -> pixels; fails unless all are numbers from 0 to 255."""
    valid = tf.reduce_all((pixels >= 0) & (pixels <= 255), axis=(1, 2, 3))  # False for NaN
    with tf.control_dependencies([require(valid, "pixels", "has values that are not numbers from 0 to 255")]):
        return tf.identity(pixels)


def read_examples(inputs: tf.Tensor) -> tf.Tensor:
    """Serialized tf.Examples [B] -> their feature `image_bytes` [B]."""

    def parse(data: tf.Tensor) -> tf.Tensor:
        feature = tf.io.FixedLenFeature((), tf.string)
        return tf.io.parse_single_example(data, {"image_bytes": feature})["image_bytes"]

    error = "is not a serialized tf.Example with one string in the feature image_bytes"
    return image_files.map_rows(parse, inputs, tf.TensorSpec((), tf.string), "inputs", error)


def example_message(file: bytes) -> bytes:
    """-> a serialized tf.Example for `read_examples`."""
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    return tf.train.Example(features=tf.train.Features(feature={"image_bytes": value})).SerializeToString()


def score(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """probabilities [N, classes], labels [N] -> number of correct images, summed loss in nats, N."""
    correct = probabilities.argmax(axis=-1) == labels
    true_class = probabilities[np.arange(len(labels)), labels]
    return np.array([correct.sum(), -np.log(np.maximum(true_class, 1e-12)).sum(dtype=np.float64), len(labels)])


def means(sums: np.ndarray) -> dict[str, float]:
    """-> accuracy; loss in nats per image."""
    correct, loss, count = map(float, sums)
    return {"accuracy": correct / count, "loss": loss / count}
