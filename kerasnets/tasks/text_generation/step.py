"""The step of a `CharLSTM` for writing text: the same numbers as `model.step`, in fewer and larger operations."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerasnets.layers.kernels import lstm

NEVER = -1e9  # the logit of id 0: it stands for unknown characters and is no character to write


def fused_step(model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor, Any, Any], tuple[tf.Tensor, Any]]:
    """-> `model.step` of a CharLSTM in float32, for tokens int [B], but that id 0 is never expected.

    With a row or a few a step takes as long as the dispatch of its operations and one pass over the weights. So each
    LSTM is one kernel of TensorFlow, with [x, h] · [W; U] as one product, and the weights are read and laid out here:
    this is to be called within the graph that the steps belong to, outside of its loop.
    """
    embeddings = value(model.embedding.embeddings)
    cells = [block_weights(rnn.cell) for rnn in model.rnns.rnns]
    if model.out is None:
        kernel, bias = tf.transpose(embeddings), tf.zeros([model.vocabulary_size])
    else:
        kernel, bias = value(model.out.kernel), value(model.out.bias)
    bias = tf.concat([[NEVER], bias[1:]], axis=0)

    def step(token, index, memory, cache):
        x, after = tf.gather(embeddings, token), []
        for weights, (h, c) in zip(cells, cache, strict=True):
            made = tf.raw_ops.LSTMBlockCell(x=x, h_prev=h, cs_prev=c, **weights, forget_bias=0.0, cell_clip=0.0)
            x = made.h
            after.append((made.h, made.cs))
        return tf.raw_ops.BiasAdd(value=tf.matmul(x, kernel), bias=bias), after

    return step


def value(variable: keras.Variable) -> tf.Tensor:
    """-> its value in float32, read here and not where it is used."""
    return tf.identity(ops.convert_to_tensor(variable, "float32"))


def block_weights(cell: keras.layers.Layer) -> dict[str, tf.Tensor]:
    """-> the weights of an `LSTMCell` as `LSTMBlockCell` takes them."""
    w, b = lstm.block_weights(value(cell.kernel), value(cell.recurrent_kernel), value(cell.bias))
    none = tf.zeros([cell.units])  # of the peepholes, which it has not
    return {"w": w, "b": b, "wci": none, "wcf": none, "wco": none}
