"""Requests that a signature has to refuse."""

import pytest
import tensorflow as tf


def refused(function, sentence, *arguments, **inputs):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        function(*arguments, **inputs)
