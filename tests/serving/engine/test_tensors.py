"""Conversion between TensorProto and arrays, without a server."""

import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.engine.tensors import (
    MAX_DIMENSIONS,
    SLICE,
    STRING_BYTES,
    VALUE_FIELDS,
    from_proto,
    repeated_bytes,
    to_proto,
)
from serving.errors import StatusError


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        (types_pb2.DT_UINT8, "int_val", [300, 1], np.array([44, 1, 1], np.uint8)),
        (types_pb2.DT_INT8, "int_val", [1, 200], np.array([1, -56, -56], np.int8)),
        (types_pb2.DT_HALF, "half_val", [2**16 + 0x3C00], np.array([1, 1, 1], np.float16)),
    ],
)
def test_small_integers_wrap_around_and_short_lists_repeat(dtype, field, values, expected):
    proto = tensor_pb2.TensorProto(dtype=dtype)
    proto.tensor_shape.dim.add(size=3)
    getattr(proto, field).extend(values)
    array = from_proto(proto, "x")
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "complex64", "complex128", "float64", "uint64", "bool", "int8"]
)
@pytest.mark.parametrize("as_content", [False, True])
def test_round_trips_with_tensorflow(dtype, as_content):
    kind = tf.as_dtype(dtype)
    array = np.array([[0, 1, 1], [2, 3, 100]]).astype(kind.as_numpy_dtype)
    if "complex" in dtype:
        array += 2j
    np.testing.assert_array_equal(from_proto(tf.make_tensor_proto(array), "x"), array)
    proto = tensor_pb2.TensorProto()
    to_proto(array, kind.as_datatype_enum, proto, as_content)
    assert bool(proto.tensor_content) == as_content
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


def test_incomplete_complex_number_is_rejected():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2, 3])
    proto.tensor_shape.dim.add(size=2)
    with pytest.raises(StatusError, match="tensor parsing error: x"):
        from_proto(proto, "x")


@pytest.mark.parametrize("sizes", [(2**62, 4), (2**30,)])
def test_short_list_cannot_exceed_the_message_limit(sizes):
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1])
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(StatusError, match="tensor parsing error: x"):
        from_proto(proto, "x")


def test_repeated_values_are_counted():
    short, content = (tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT) for _ in range(2))
    for size in (10**6, 10**4):
        short.tensor_shape.dim.add(size=size)
    content.tensor_content = b"1234"
    assert repeated_bytes([short, content]) == 4 * 10**10


def test_repeated_strings_count_with_their_bytes():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"short", b"a" * 500_000])
    proto.tensor_shape.dim.add(size=1_500)
    assert repeated_bytes([proto]) == 1_498 * (500_000 + STRING_BYTES)
    proto.tensor_shape.dim[0].size = 2
    assert not repeated_bytes([proto])


def test_repeated_complex_numbers_are_counted():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2])
    proto.tensor_shape.dim.add(size=3)
    assert repeated_bytes([proto]) == 2 * 8


@pytest.mark.parametrize("data_type", sorted(VALUE_FIELDS))
def test_number_of_dimensions_is_limited(data_type):
    proto = tensor_pb2.TensorProto(dtype=data_type)
    for _ in range(MAX_DIMENSIONS):
        proto.tensor_shape.dim.add(size=1)
    assert from_proto(proto, "x").ndim == MAX_DIMENSIONS
    proto.tensor_shape.dim.add(size=1)
    with pytest.raises(StatusError, match="x has 33 dimensions; a tensor may have at most 32."):
        from_proto(proto, "x")


def test_sizes_of_too_many_dimensions_are_not_multiplied():
    """The product would take half a minute, and have half a million bytes."""
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1])
    for _ in range(60_000):
        proto.tensor_shape.dim.add(size=2**62)
    assert not repeated_bytes([proto])
    with pytest.raises(StatusError, match="x has 60000 dimensions"):
        from_proto(proto, "x")


@pytest.mark.parametrize("dtype", ["int64", "int8", "float16", "bool", "complex64", "string"])
def test_long_lists_are_converted_in_slices(dtype):
    kind, count = tf.as_dtype(dtype), 2 * SLICE + 3
    array = (np.arange(count) % 100).astype(object if dtype == "string" else kind.as_numpy_dtype)
    if dtype == "string":
        array = np.array([b"%d" % value for value in array], object)
    proto = tensor_pb2.TensorProto()
    to_proto(array, kind.as_datatype_enum, proto)
    assert not proto.tensor_content
    np.testing.assert_array_equal(from_proto(proto, "x"), array)
    proto.tensor_shape.dim[0].size = count + 2
    np.testing.assert_array_equal(from_proto(proto, "x"), [*array, *array[-1:], *array[-1:]])


def test_long_lists_need_little_more_memory_than_their_array():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64, int64_val=[1])
    proto.int64_val.extend([7] * 40 * SLICE)
    proto.tensor_shape.dim.add(size=len(proto.int64_val))
    tracemalloc.start()
    array = from_proto(proto, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * array.nbytes
