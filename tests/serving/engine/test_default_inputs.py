"""Default inputs of a signature (SignatureDef.defaults), without a server."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.api.predict import _check_count, _input_arrays
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
    inputs = {name: tf.make_tensor_proto([1.0]) for name in names}
    _check_count(inputs, signature)
    return _input_arrays(inputs, signature)


def test_default_replaces_a_missing_input(signature):
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
def test_wrong_inputs_are_rejected_despite_defaults(signature, names, text):
    with pytest.raises(StatusError) as caught:
        arrays(signature, *names)
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", text)


def test_default_with_too_many_dimensions_fails_the_load():
    definition = SignatureDef()
    definition.inputs["text"].dtype = tf.string.as_datatype_enum
    definition.defaults["text"].dtype = tf.string.as_datatype_enum
    for _ in range(33):
        definition.defaults["text"].tensor_shape.dim.add(size=1)
    with pytest.raises(StatusError, match="text has 33 dimensions"):
        Signature("serving_default", definition)
