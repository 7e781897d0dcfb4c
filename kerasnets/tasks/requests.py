"""Checks of what a SavedModel is sent. A broken one is INVALID_ARGUMENT with a sentence that names the row."""

import tensorflow as tf

from kerasnets.text import require_utf8


def require(valid: tf.Tensor, name: str, allowed: str, values: tf.Tensor | None = None) -> tf.Operation:
    """Fails unless all of `valid` bool [B] is True; to be used as a control dependency."""
    # The first wrong row, or the number of rows, for which one more value stands behind the last.
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    parts = [f"{name} ", tf.strings.as_string(row)]
    if values is not None:
        parts += [" is ", tf.strings.as_string(tf.concat([values, tf.zeros([1], values.dtype)], axis=0)[row])]
    sentence = tf.strings.join([*parts, f" {allowed} (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [sentence])


def require_none(faults: tf.Tensor, name: str) -> tf.Operation:
    """Fails unless all of `faults` string [B] are empty; to be used as a control dependency. The first that is not ends
    the sentence."""
    valid = faults == ""
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    fault = tf.concat([faults, [""]], axis=0)[row]
    sentence = tf.strings.join([f"{name} ", tf.strings.as_string(row), " ", fault, " (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [sentence])


def require_rows(values: tf.Tensor, name: str) -> tf.Tensor:
    """-> values [B, ...], if there is a row."""
    refuse = tf.debugging.Assert(tf.shape(values)[0] > 0, [f"{name} has no rows; give at least one"])
    with tf.control_dependencies([refuse]):
        return tf.identity(values)


def require_text(text: tf.Tensor, name: str, blank: bool = False) -> tf.Tensor:
    """text string [B] -> the same, if every row is UTF-8 and has something in it; `blank`: white space will do."""
    text = require_utf8(require_rows(text, name))
    text = tf.strings.regex_replace(text, "^\ufeff", "", replace_global=False)  # a byte order mark is no part of it
    filled = tf.strings.length(text if blank else tf.strings.strip(text)) > 0
    with tf.control_dependencies([require(filled, name, "is empty; give at least one character")]):
        return tf.identity(text)


def same_rows(values: tf.Tensor, name: str, others: tf.Tensor, of: str) -> tf.Tensor:
    """-> values [B, ...], given as they are or as one for all rows [1, ...], with as many rows as others [B]."""
    given, rows = tf.shape(values)[0], tf.size(others)
    counts = [tf.strings.as_string(count) for count in (given, rows)]
    sentence = tf.strings.join([f"{name} has ", counts[0], f" rows and {of} ", counts[1], "; give as many, or one"])
    with tf.control_dependencies([tf.debugging.Assert((given == rows) | (given == 1), [sentence])]):
        return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], axis=0))
