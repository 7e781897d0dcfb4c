"""Checks of a SavedModel's inputs. A failed check is an INVALID_ARGUMENT error whose message names the row."""

import tensorflow as tf

# Bounds of a request's memory and time, checked before any computation.
MAX_ROWS = 10_000
MAX_BYTES = 1_000_000  # of all texts of an input
MAX_ELEMENTS = 10_000_000  # of an output whose row size depends on the model
MIN_ROW_LIMIT = 64  # this many rows are always allowed, whatever the row size: a batch size that servers use


def require(valid: tf.Tensor, name: str, allowed: str, values: tf.Tensor | None = None) -> tf.Operation:
    """-> a control dependency that fails unless all of `valid` bool [B] is True."""
    # The first invalid row; if all are valid, the number of rows, for which a zero is appended to `values`.
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    parts = [f"{name} ", tf.strings.as_string(row)]
    if values is not None:
        parts += [" is ", tf.strings.as_string(tf.concat([values, tf.zeros([1], values.dtype)], axis=0)[row])]
    message = tf.strings.join([*parts, f" {allowed} (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [message])


def require_no_error(errors: tf.Tensor, name: str) -> tf.Operation:
    """-> a control dependency that fails unless all of `errors` string [B] are empty. The message ends with the first
    non-empty one."""
    valid = errors == ""
    row = tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32)))
    error = tf.concat([errors, [""]], axis=0)[row]
    message = tf.strings.join([f"{name} ", tf.strings.as_string(row), " ", error, " (rows count from 0)"])
    return tf.debugging.Assert(tf.reduce_all(valid), [message])


def row_limit(row_size: int, max_elements: int = MAX_ELEMENTS) -> int:
    """-> maximum rows of a request if a row has `row_size` elements and all rows together may have `max_elements`."""
    return min(MAX_ROWS, max(MIN_ROW_LIMIT, max_elements // row_size))


def require_rows(values: tf.Tensor, name: str, limit: int = MAX_ROWS) -> tf.Tensor:
    """-> values [B, ...]; fails unless B is in 1..`limit`."""
    rows = tf.shape(values)[0]
    too_many = [f"{name} has ", tf.strings.as_string(rows), f" rows, more than the limit of {limit:,}"]
    checks = [
        tf.debugging.Assert(rows > 0, [f"{name} has no rows; give at least one"]),
        tf.debugging.Assert(rows <= limit, [tf.strings.join([*too_many, "; give fewer at a time"])]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(values)


def require_bytes(text: tf.Tensor, name: str, limit: int) -> tf.Tensor:
    """text string [B] -> text; fails if a row has more than `limit` bytes, or all rows together more than MAX_BYTES."""
    sizes = tf.strings.length(text)
    total = tf.reduce_sum(tf.cast(sizes, tf.int64))
    too_many = [f"{name} has ", tf.strings.as_string(total), " bytes in all its rows, more than the limit of "]
    too_many = tf.strings.join([*too_many, f"{MAX_BYTES:,}; give fewer rows at a time"])
    checks = [
        require(sizes <= limit, name, f"bytes long, more than the limit of {limit:,}; give a shorter text", sizes),
        tf.debugging.Assert(total <= MAX_BYTES, [too_many]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(text)


def require_utf8(text: tf.Tensor) -> tf.Tensor:
    """text string [B] -> text; fails with InvalidArgumentError, naming the first row that is not UTF-8."""
    repaired = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    valid = tf.equal(repaired, text)
    row = tf.strings.as_string(tf.reduce_sum(tf.math.cumprod(tf.cast(valid, tf.int32))))
    message = tf.strings.join(["text ", row, " is not valid UTF-8; encode it as UTF-8 (rows count from 0)"])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [message])]):
        return tf.identity(text)


def require_text(
    text: tf.Tensor, name: str, max_bytes: int, max_rows: int = MAX_ROWS, allow_blank: bool = False
) -> tf.Tensor:
    """text string [B] -> text without byte order marks; fails unless it has at most `max_rows` rows, each UTF-8, at
    most `max_bytes` bytes long and not empty. `allow_blank`: allow rows of white space alone."""
    text = require_utf8(require_bytes(require_rows(text, name, max_rows), name, max_bytes))
    text = tf.strings.regex_replace(text, "^\ufeff", "", replace_global=False)  # a byte order mark
    valid = tf.strings.length(text if allow_blank else tf.strings.strip(text)) > 0
    with tf.control_dependencies([require(valid, name, "is empty; give at least one character")]):
        return tf.identity(text)


def require_padded_size(rows: tf.Tensor, longest: tf.Tensor, name: str, unit: str, limit: int) -> tf.Operation:
    """-> a control dependency that fails unless rows · longest <= `limit`."""
    total = tf.cast(rows, tf.int64) * tf.cast(longest, tf.int64)
    size = [tf.strings.as_string(count) for count in (rows, longest)]
    message = [f"{name} has ", size[0], " rows of up to ", size[1], f" {unit}, together more than {limit:,}"]
    return tf.debugging.Assert(total <= limit, [tf.strings.join([*message, "; give fewer rows at a time"])])


def broadcast_rows(values: tf.Tensor, name: str, others: tf.Tensor, others_name: str) -> tf.Tensor:
    """Broadcast values [B, ...] or [1, ...] to the rows of others [B]; -> values [B, ...]."""
    count, rows = tf.shape(values)[0], tf.size(others)
    counts = [tf.strings.as_string(number) for number in (count, rows)]
    message = [f"{name} has ", counts[0], f" rows, but {others_name} has ", counts[1], "; give ", counts[1], " or 1"]
    with tf.control_dependencies([tf.debugging.Assert((count == rows) | (count == 1), [tf.strings.join(message)])]):
        return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], axis=0))
