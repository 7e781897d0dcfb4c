"""Checks of a SavedModel's inputs. A failed check is INVALID_ARGUMENT with a sentence that names the row."""

import tensorflow as tf

# Bounds of a request's memory and time, checked before any computation.
MAX_ROWS = 10_000
MOST_BYTES = 1_000_000  # of all texts of an input
MOST_NUMBERS = 10_000_000  # elements of an output whose row size depends on the model
FEWEST_ROWS = 64  # always allowed, whatever the row size: a batch size that servers use


def require(valid: tf.Tensor, name: str, allowed: str, values: tf.Tensor | None = None) -> tf.Operation:
    """-> a control dependency that fails unless all of `valid` bool [B] is True."""
    # The first invalid row; if none is, the number of rows, for which a zero is appended to `values`.
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    parts = [f"{name} ", tf.strings.as_string(row)]
    if values is not None:
        parts += [" is ", tf.strings.as_string(tf.concat([values, tf.zeros([1], values.dtype)], axis=0)[row])]
    sentence = tf.strings.join([*parts, f" {allowed} (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [sentence])


def require_none(faults: tf.Tensor, name: str) -> tf.Operation:
    """-> a control dependency that fails unless all of `faults` string [B] are empty. The first non-empty one ends the
    error's sentence."""
    valid = faults == ""
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    fault = tf.concat([faults, [""]], axis=0)[row]
    sentence = tf.strings.join([f"{name} ", tf.strings.as_string(row), " ", fault, " (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [sentence])


def rows_of(numbers: int, most: int = MOST_NUMBERS) -> int:
    """-> maximum rows of a request if a row has `numbers` elements and all rows together may have `most`."""
    return min(MAX_ROWS, max(FEWEST_ROWS, most // numbers))


def require_rows(values: tf.Tensor, name: str, most: int = MAX_ROWS) -> tf.Tensor:
    """-> values [B, ...]; fails unless B is in 1..`most`."""
    rows = tf.shape(values)[0]
    many = [f"{name} has ", tf.strings.as_string(rows), f" rows, more than the limit of {most:,}; give fewer at a time"]
    checks = [
        tf.debugging.Assert(rows > 0, [f"{name} has no rows; give at least one"]),
        tf.debugging.Assert(rows <= most, [tf.strings.join(many)]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(values)


def require_bytes(text: tf.Tensor, name: str, most: int) -> tf.Tensor:
    """text string [B] -> text; fails if a row has more than `most` bytes, or all rows together more than MOST_BYTES."""
    sizes = tf.strings.length(text)
    total = tf.reduce_sum(tf.cast(sizes, tf.int64))
    together = [f"{name} has ", tf.strings.as_string(total), " bytes in all its rows, more than the limit of "]
    together = tf.strings.join([*together, f"{MOST_BYTES:,}; give fewer rows at a time"])
    checks = [
        require(sizes <= most, name, f"bytes long, more than the limit of {most:,}; give a shorter text", sizes),
        tf.debugging.Assert(total <= MOST_BYTES, [together]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(text)


def require_utf8(text: tf.Tensor) -> tf.Tensor:
    """text string [B] -> text; fails with InvalidArgumentError, naming the first row that is not UTF-8."""
    repaired = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    valid = tf.equal(repaired, text)
    row = tf.strings.as_string(tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32))))
    sentence = tf.strings.join(["text ", row, " is not valid UTF-8 (counted from 0): encode it as UTF-8"])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [sentence])]):
        return tf.identity(text)


def require_text(text: tf.Tensor, name: str, most: int, rows: int = MAX_ROWS, blank: bool = False) -> tf.Tensor:
    """text string [B] -> text without byte order marks; fails unless it has at most `rows` rows, each UTF-8, at most
    `most` bytes long and not empty. `blank`: allow rows of white space alone."""
    text = require_utf8(require_bytes(require_rows(text, name, rows), name, most))
    text = tf.strings.regex_replace(text, "^\ufeff", "", replace_global=False)  # a byte order mark
    filled = tf.strings.length(text if blank else tf.strings.strip(text)) > 0
    with tf.control_dependencies([require(filled, name, "is empty; give at least one character")]):
        return tf.identity(text)


def require_together(rows: tf.Tensor, longest: tf.Tensor, name: str, what: str, most: int) -> tf.Operation:
    """-> a control dependency that fails unless rows · longest <= `most`."""
    total = tf.cast(rows, tf.int64) * tf.cast(longest, tf.int64)
    size = [tf.strings.as_string(count) for count in (rows, longest)]
    sentence = [f"{name} has ", size[0], " rows of up to ", size[1], f" {what}, together more than {most:,}"]
    return tf.debugging.Assert(total <= most, [tf.strings.join([*sentence, ": give fewer rows at a time"])])


def same_rows(values: tf.Tensor, name: str, others: tf.Tensor, of: str) -> tf.Tensor:
    """Broadcast values [B, ...] or [1, ...] to the rows of others [B]; -> values [B, ...]."""
    given, rows = tf.shape(values)[0], tf.size(others)
    counts = [tf.strings.as_string(count) for count in (given, rows)]
    sentence = tf.strings.join([f"{name} has ", counts[0], f" rows and {of} ", counts[1], "; give as many, or one"])
    with tf.control_dependencies([tf.debugging.Assert((given == rows) | (given == 1), [sentence])]):
        return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], axis=0))
