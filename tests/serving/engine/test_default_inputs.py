"""Inputs that a signature has defaults for (SignatureDef.defaults); no server."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.api.predict import _arrays, _check_count
from serving.engine.servable import Signature
from serving.errors import StatusError


@pytest.fixture
def signature():
    definition = SignatureDef()
    for alias in ("a", "b"):
        definition.inputs[alias].name = f"{alias}:0"
        definition.inputs[alias].dtype = tf.float32.as_datatype_enum
    definition.defaults["b"].CopyFrom(tf.make_tensor_proto([7.0]))
    return Signature("serving_default", definition)


def arrays(signature, *names):
    given = {name: tf.make_tensor_proto([1.0]) for name in names}
    _check_count(given, signature)
    return _arrays(given, signature)


def test_a_default_fills_the_gap(signature):
    np.testing.assert_equal(arrays(signature, "a"), {"a": np.array([1.0]), "b": np.array([7.0])})


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["b"],
            "Signature input alias: a(feed name: a:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {b}, or default input alias set: b",
        ),
        (["a", "z"], "Inputs contains invalid name. Used request inputs: a, request input: a,z"),
        (
            ["a", "b", "z"],
            "input size does not match signature: 3!=2 len({a,b,z}) != len({a,b}). "
            "Sent extra: {z}. Missing but required: {}.",
        ),
    ],
)
def test_what_defaults_do_not_help_with(signature, names, text):
    with pytest.raises(StatusError) as caught:
        arrays(signature, *names)
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", text)


def test_a_default_of_too_many_dimensions_is_refused_when_it_is_loaded():
    definition = SignatureDef()
    definition.inputs["text"].dtype = tf.string.as_datatype_enum
    definition.defaults["text"].dtype = tf.string.as_datatype_enum
    for _ in range(33):
        definition.defaults["text"].tensor_shape.dim.add(size=1)
    with pytest.raises(StatusError, match="text has 33 dimensions"):
        Signature("serving_default", definition)
