"""A check that a signature rejects a request."""

import pytest
import tensorflow as tf


def assert_rejected(function, message, *arguments, **inputs):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        function(*arguments, **inputs)
