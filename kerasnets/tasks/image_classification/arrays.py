"""The networks of image classification as functions of arrays (`kerasnets.tasks.arrays`)."""

import keras
import tensorflow as tf

from kerasnets.config.networks import Shape
from kerasnets.tasks.arrays import ArrayNetwork, tokens


def pixels(shape: Shape) -> tf.TensorSpec:
    return tf.TensorSpec((None, *shape), tf.float32, "pixels")


def image_to_logits(model: keras.Model, shape: Shape, recurrent: bool) -> ArrayNetwork:
    """pixels [B, Y, X, C], 0..255 -> logits [B, classes]"""
    return ArrayNetwork(model, lambda pixels: {"logits": model(pixels)}, [pixels(shape)], recurrent)


def image_and_name_to_logits(model: keras.Model, shape: Shape, recurrent: bool) -> ArrayNetwork:
    """pixels [B, Y, X, C], 0..255, target [B, T], prefix of a name -> logits [B, T, characters]"""

    def call(pixels, target):
        return {"logits": model({"given": pixels, "target": target})}

    return ArrayNetwork(model, call, [pixels(shape), tokens("target")], recurrent, model.vocabulary_size)
