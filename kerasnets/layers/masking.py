"""Keras's masks: they mark the padding of a sequence.   B batch, T target or time steps, S source positions.

Layers such as `keras.layers.Embedding(mask_zero=True)` attach a mask bool [B, T], True = valid, to their output. Keras
passes it to the layer that is called with this output: as `mask` if there is no other tensor in the call, else as
`NAME_mask`, beside the tensor NAME. A layer that skips padding therefore has arguments of both names. It combines them
with its own `valid` or `attention_mask`.
"""

import functools

import keras
from keras import ops


class MaskedLayer(keras.layers.Layer):
    """A layer whose output has the mask of its first input, so that the layers after it skip the same padding."""

    def compute_mask(self, inputs, previous_mask):
        return previous_mask


def merge_masks(*masks):
    """-> bool, True where every mask that is not None is True; None if all are None."""
    not_none = [mask for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, not_none) if not_none else None


def merge_padding_mask(attention_mask, valid):
    """attention_mask bool [B|1, T|1, S], valid bool [B, S] -> bool [B, T|1, S]; both may be None."""
    check_rank(attention_mask)
    return merge_masks(attention_mask, None if valid is None else ops.cast(ops.expand_dims(valid, 1), "bool"))


def check_rank(attention_mask):
    if attention_mask is not None and len(attention_mask.shape) != 3:
        raise ValueError(f"attention_mask has the shape {tuple(attention_mask.shape)}; it must be [B|1, T|1, S].")


def valid_steps(sequence, valid=None):
    """-> bool [B, T]: `valid` if it is not None, else True where tokens are not 0, padding; None: all are valid."""
    if valid is None and len(sequence.shape) == 2 and "int" in keras.backend.standardize_dtype(sequence.dtype):
        return sequence != 0
    return valid
