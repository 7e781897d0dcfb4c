"""The step of a network for generating text, which never generates the unknown character, id 0."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerasnets.layers.kernels import lstm

UNKNOWN_LOGIT = -1e9  # of id 0

Step = Callable[[tf.Tensor, tf.Tensor, Any, Any], tuple[tf.Tensor, Any]]


def plain_step(model: keras.Model) -> Step:
    """-> `model.step`, for tokens int [B], with the probability of id 0 set to zero."""

    def step(token, index, memory, cache):
        logits, cache = model.step(token, index, memory, cache)
        return logits + UNKNOWN_LOGIT * tf.one_hot(0, model.vocabulary_size), cache

    return step


def fused_lstm_step(model: keras.Model) -> Step:
    """-> the same for a `CharLSTM`, in float32 and in fewer and larger operations.

    For a few rows, a step takes as long as the dispatch of its operations and one pass over the weights. So each LSTM
    is one kernel of TensorFlow, with [x, h] · [W; U] as one product, and the weights are read and rearranged here: call
    this function in the graph of the steps, outside of its loop.
    """
    embeddings = value(model.embedding.embeddings)
    cells = [block_weights(rnn.cell) for rnn in model.rnns.rnns]
    if model.out is None:
        kernel, bias = tf.transpose(embeddings), tf.zeros([model.vocabulary_size])
    else:
        kernel, bias = value(model.out.kernel), value(model.out.bias)
    bias = tf.concat([[UNKNOWN_LOGIT], bias[1:]], axis=0)

    def step(token, index, memory, cache):
        x, next_cache = tf.gather(embeddings, token), []
        for weights, (h, c) in zip(cells, cache, strict=True):
            outputs = tf.raw_ops.LSTMBlockCell(x=x, h_prev=h, cs_prev=c, **weights, forget_bias=0.0, cell_clip=0.0)
            x = outputs.h
            next_cache.append((outputs.h, outputs.cs))
        return tf.raw_ops.BiasAdd(value=tf.matmul(x, kernel), bias=bias), next_cache

    return step


def value(variable: keras.Variable) -> tf.Tensor:
    """-> the variable's value in float32, read at this point of the graph."""
    return tf.identity(ops.convert_to_tensor(variable, "float32"))


def block_weights(cell: keras.layers.Layer) -> dict[str, tf.Tensor]:
    """-> the weights of an `LSTMCell` as inputs of `LSTMBlockCell`."""
    w, b = lstm.block_weights(value(cell.kernel), value(cell.recurrent_kernel), value(cell.bias))
    zeros = tf.zeros([cell.units])  # peephole weights, unused
    return {"w": w, "b": b, "wci": zeros, "wcf": zeros, "wco": zeros}


FUSED_STEPS = {"char_lstm": fused_lstm_step}  # by the network's name; the others have `plain_step`
