"""Small tasks with random data, for tests of the training loop."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import tensorflow as tf

from kerasnets.config.run import Training
from kerasnets.data.batches import to_dataset, varying_shapes
from kerasnets.models import CharLSTM, ConvNet, Transformer
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.protocol import Task
from kerasnets.tasks.samples import Samples

STEPS_PER_EPOCH = 3


class FakeTask:
    """A task with random data. The validation number `stop_at` fails, as if the process had been killed."""

    best_metric, best_is = "score", "highest"
    steps_per_epoch, examples_per_step = STEPS_PER_EPOCH, 8
    weight_unit, padding = "rows", 0.25
    shapes_vary = False

    def __init__(self, stop_at=None, **training):
        options = {"epochs": 2, "clip_norm": 0.5, "weight_decay": 0.01, "learning_rate": 0.01} | training
        self.config = SimpleNamespace(seed=3, training=Training(**options))
        self.stop_at, self.validations = stop_at, 0

    def training_batches(self, start, stop):
        def batch(step):
            return self.batch(step, np.random.default_rng([5, step]))

        return to_dataset(varying_shapes(batch) if self.shapes_vary else batch, start, stop)

    check_split = Task.check_split

    def initial_carry(self):
        return ()

    def validate(self, model, share):
        self.validations += 1
        if self.validations == self.stop_at:
            raise InterruptedError
        return {"score": float(sum(np.abs(v.numpy()).sum() for v in model.trainable_variables))}

    def samples(self, model):
        batch = next(iter(self.training_batches(0, 1)))
        loss, *_ = self.loss(model, batch, self.initial_carry(), training=False)
        return Samples("losses", [{"loss": f"{loss:.1f}"}], np.zeros((1, 4, 4, 1), np.uint8))

    def split_sizes(self):
        return {"train": 8 * STEPS_PER_EPOCH}


class Images(FakeTask):
    """Its network has batch normalization."""

    def model(self):
        model = ConvNet(3, filters=(4, 5))
        model.build((None, None, None, 1))
        return model

    def batch(self, step, rng):
        pixels = rng.integers(0, 255, (8, 8, 8, 1)) // np.arange(1, 9)[:, None, None, None]  # all different
        return {"pixels": pixels.astype(np.uint8), "labels": rng.integers(0, 3, 8).astype(np.int32)}

    def loss(self, model, batch, carry, training):
        losses = cross_entropy(model(batch["pixels"], training=training), batch["labels"], 0.1)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), carry


class Characters(FakeTask):
    """Carries the LSTM's states from step to step."""

    dropouts: ClassVar[dict[str, float]] = {}

    def model(self):
        model = CharLSTM(7, width=4, units=6, num_layers=2, **self.dropouts)
        model.build((None, None))
        return model

    def batch(self, step, rng):
        tokens = rng.integers(1, 7, (8, 6)).astype(np.int32)
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def initial_carry(self):
        rng = np.random.default_rng(2)  # rows differ, so that a wrong order is detected
        return [tuple(rng.normal(0, 1, (8, 6)).astype(np.float32) for _ in "hc") for _ in range(2)]

    def loss(self, model, batch, carry, training):
        logits, states = model.run(batch["inputs"], carry, training=training)
        losses = cross_entropy(logits, batch["targets"])
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), states


class CharactersWithDropout(Characters):
    dropouts: ClassVar[dict[str, float]] = {
        "dropout": 0.4,
        "variational": True,
        "recurrent_weight_dropout": 0.3,
        "word_dropout": 0.2,
    }


class Pairs(FakeTask):
    """Rows have different weights because of padding. Batches have different shapes, and one an odd number of rows."""

    shapes_vary = True
    dropouts: ClassVar[dict[str, float]] = {"dropout": 0.0}

    def model(self):
        model = Transformer(9, 8, 2, 12, num_blocks=1, norm="pre", **self.dropouts)
        model.build({"source": (None, None), "target": (None, None)})
        return model

    def check_split(self, parts):
        pass

    def batch(self, step, rng):
        rows, length = 7 if step == 1 else 8, 6 + step % 5
        tokens = rng.integers(1, 9, (rows, length)).astype(np.int32)
        tokens[np.arange(length) >= np.linspace(1, length, rows).round()[:, None]] = 0  # short rows come first
        return {"source": tokens, "target": tokens}

    def loss(self, model, batch, carry, training):
        target = batch["target"]
        logits = model({"source": batch["source"], "target": target[:, :-1]}, training=training)
        weights = tf.cast(target[:, 1:] != 0, tf.float32)
        return tf.reduce_sum(weights * cross_entropy(logits, target[:, 1:])), tf.reduce_sum(weights), carry


class PairsWithDropout(Pairs):
    dropouts: ClassVar[dict[str, float]] = {
        "dropout": 0.1,
        "attention_dropout": 0.2,
        "feed_forward_dropout": 0.3,
        "word_dropout": 0.2,
    }


class Averages(Characters):
    """Ends with the averages in place of the weights."""

    def __init__(self, **training):
        super().__init__(**{"average_decay": 0.9, "optimizer": "sgd", "learning_rate": 1.0} | training)
