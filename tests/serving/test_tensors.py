"""From TensorProto to arrays; no server."""

import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.tensors import from_proto


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        (types_pb2.DT_UINT8, "int_val", [300, 1], np.array([44, 1, 1], np.uint8)),
        (types_pb2.DT_INT8, "int_val", [1, 200], np.array([1, -56, -56], np.int8)),
        (types_pb2.DT_HALF, "half_val", [2**16 + 0x3C00], np.array([1, 1, 1], np.float16)),
    ],
)
def test_small_integers_wrap_around_and_lists_continue(dtype, field, values, expected):
    proto = tensor_pb2.TensorProto(dtype=dtype)
    proto.tensor_shape.dim.add(size=3)
    getattr(proto, field).extend(values)
    array = from_proto(proto, "x")
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
