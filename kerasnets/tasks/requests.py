"""Checks of what a SavedModel is sent. A broken one is INVALID_ARGUMENT with a sentence that names the row."""

import tensorflow as tf

from kerasnets.text import require_utf8


def require(valid: tf.Tensor, name: str, allowed: str, values: tf.Tensor | None = None) -> tf.Operation:
    """Fails unless all of `valid` bool [B] is True; to be used as a control dependency."""
    row = tf.argmin(tf.cast(valid, tf.int32))
    parts = [f"{name} ", tf.strings.as_string(row)]
    if values is not None:
        # An empty batch has no row to show.
        shown = tf.cond(tf.size(values) > 0, lambda: tf.strings.as_string(values[row]), lambda: tf.constant(""))
        parts += [" is ", shown]
    sentence = tf.strings.join([*parts, f" {allowed} (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [sentence])


def require_text(text: tf.Tensor, name: str) -> tf.Tensor:
    """text string [B] -> the same, if every row is UTF-8 and has something in it besides white space."""
    text = require_utf8(text)
    filled = tf.strings.length(tf.strings.strip(text)) > 0
    with tf.control_dependencies([require(filled, name, "is empty; give at least one character")]):
        return tf.identity(text)
