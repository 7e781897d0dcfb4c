"""Classification by spelling: a network that writes text (1 → N) scores each class by the probability of its name."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from kerasnets.tasks.losses import cross_entropy

PAD, START, END = 0, 1, 2


class Spelling:
    """The names of the classes as characters.

    P(name | image) is the product of its characters' probabilities, and

        P(class | image) = P(name | image) / Σ P(name | image) over the classes

    Attributes: vocabulary_size: number of characters, including the padding, start and end tokens.
    """

    def __init__(self, names: Sequence[str]):
        characters = sorted(set("".join(names)))
        ids = {character: n for n, character in enumerate(characters, start=END + 1)}
        self.vocabulary_size = len(characters) + END + 1
        self.ids = np.full((len(names), max(map(len, names)) + 2), PAD, np.int32)  # [classes, L + 1]
        for row, name in zip(self.ids, names, strict=True):
            row[: len(name) + 2] = [START, *(ids[character] for character in name), END]

    def losses(
        self, model: keras.Model, pixels: tf.Tensor, labels: tf.Tensor, smoothing: float, training: bool
    ) -> tf.Tensor:
        """-> -log P(name of the label | image) [B], in nats."""
        names = tf.gather(self.ids, labels)
        logits = model({"given": pixels, "target": names[:, :-1]}, training=training)
        return cross_entropy_sums(logits, names[:, 1:], smoothing)

    def logits(self, model: keras.Model, pixels: tf.Tensor) -> tf.Tensor:
        """-> log P(name | image) of each class [B, classes]; their softmax is the distribution over the classes."""
        return self.logits_of_vector(model, model.encoder(pixels))

    def logits_of_vector(self, model: keras.Model, vector: tf.Tensor) -> tf.Tensor:
        """As `logits`, from the image vector [B, D] of the model's encoder."""
        rows, classes = tf.shape(vector)[0], len(self.ids)
        states = [[tf.repeat(state, classes, axis=0) for state in pair] for pair in model.states(vector)]
        names = tf.tile(self.ids, [rows, 1])  # [B · classes, L + 1]
        return tf.reshape(-cross_entropy_sums(model.decode(states, names[:, :-1]), names[:, 1:]), (rows, classes))


def cross_entropy_sums(logits: tf.Tensor, targets: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """-> the cross-entropy [B], summed over each row's characters without padding."""
    valid = tf.cast(targets != PAD, tf.float32)
    return tf.reduce_sum(cross_entropy(logits, targets, smoothing) * valid, axis=-1)
