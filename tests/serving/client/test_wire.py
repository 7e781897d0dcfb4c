"""The client's messages agree with those of TensorFlow, TensorFlow Serving and gRPC."""

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.wrappers_pb2 import Int64Value
from grpc_health.v1 import health_pb2
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
    status_pb2,
)

from serving.client.wire import CLASSES, decode, encode
from serving.protocol import CODE_NAMES, DTYPES

TENSORFLOW_MESSAGES = {
    "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
    "TensorShape": tensor_shape_pb2.TensorShapeProto,
    "Tensor": tensor_pb2.TensorProto,
    "Int64Value": Int64Value,
    "ModelSpec": model_pb2.ModelSpec,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "BytesList": feature_pb2.BytesList,
    "FloatList": feature_pb2.FloatList,
    "Int64List": feature_pb2.Int64List,
    "Feature": feature_pb2.Feature,
    "Features": feature_pb2.Features,
    "Example": example_pb2.Example,
    "ExampleList": input_pb2.ExampleList,
    "ExampleListWithContext": input_pb2.ExampleListWithContext,
    "Input": input_pb2.Input,
    "ClassificationRequest": classification_pb2.ClassificationRequest,
    "Class": classification_pb2.Class,
    "Classifications": classification_pb2.Classifications,
    "ClassificationResult": classification_pb2.ClassificationResult,
    "ClassificationResponse": classification_pb2.ClassificationResponse,
    "RegressionRequest": regression_pb2.RegressionRequest,
    "Regression": regression_pb2.Regression,
    "RegressionResult": regression_pb2.RegressionResult,
    "RegressionResponse": regression_pb2.RegressionResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "TensorInfo": meta_graph_pb2.TensorInfo,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "Status": status_pb2.StatusProto,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "HealthCheckRequest": health_pb2.HealthCheckRequest,
    "HealthCheckResponse": health_pb2.HealthCheckResponse,
}
SAME_ON_THE_WIRE = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM),
}


@pytest.mark.parametrize("name", sorted(TENSORFLOW_MESSAGES))
def test_fields_have_the_numbers_and_types_of_tensorflow(name):
    expected_fields = {field.name: field for field in TENSORFLOW_MESSAGES[name].DESCRIPTOR.fields}
    for field in CLASSES[name].DESCRIPTOR.fields:
        expected = expected_fields[field.name]
        assert field.number == expected.number
        if expected.is_packed and field.type == FieldDescriptor.TYPE_BYTES:  # wire.py declares packed numbers as bytes
            continue
        assert field.is_repeated == expected.is_repeated
        assert field.type == expected.type or (field.type, expected.type) in SAME_ON_THE_WIRE


def test_numbers_of_dtypes_and_codes():
    import tensorflow as tf

    assert {name: tf.as_dtype(name).as_datatype_enum for name in DTYPES} == DTYPES
    assert DTYPES["string"] == types_pb2.DT_STRING
    assert [
        CODE_NAMES.index("NOT_FOUND"),
        CODE_NAMES.index("UNAUTHENTICATED"),
    ] == [tf.errors.NOT_FOUND, tf.errors.UNAUTHENTICATED]


VALUES = {
    "float32": [0.1, -np.inf, 3.4e38],
    "float64": [0.1, 1e-300, np.nan],
    "int32": [-(2**31), -1, 0, 127, 128, 2**31 - 1],
    "int64": [-(2**63), -1, 0, 300, 2**63 - 1],
    "int16": [-(2**15), 2**15 - 1],
    "int8": [-128, 127],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "bool": [True, False],
    "float16": [0.1, 65504.0],
    "string": [b"", b"a\x00", b"\xff"],
}


@pytest.mark.parametrize("dtype", VALUES)
def test_tensors_of_tensorflow_are_decoded_from_content_and_from_lists(dtype):
    import tensorflow as tf

    array = np.array(VALUES[dtype], object if dtype == "string" else dtype)[:, None]
    list_proto = tensor_pb2.TensorProto(dtype=DTYPES[dtype], tensor_shape=tf.TensorShape(array.shape).as_proto())
    field = {
        "float32": "float_val",
        "float64": "double_val",
        "int64": "int64_val",
        "bool": "bool_val",
        "float16": "half_val",
        "uint32": "uint32_val",
        "uint64": "uint64_val",
        "string": "string_val",
    }.get(dtype, "int_val")
    values = array.view(np.uint16) if dtype == "float16" else array
    getattr(list_proto, field).extend(values.ravel().tolist())
    for proto in (list_proto, tf.make_tensor_proto(array, dtype)):
        decoded = decode(CLASSES["Tensor"].FromString(proto.SerializeToString()))
        assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize("dtype", [*VALUES, "bfloat16"])
def test_tensorflow_decodes_encoded_tensors(dtype):
    import tensorflow as tf

    array = np.array(VALUES.get(dtype, [0.5, -2.0]), object if dtype == "string" else tf.as_dtype(dtype).as_numpy_dtype)
    tensor = CLASSES["Tensor"]()
    encode(tensor, "x", array.reshape(1, -1).T)  # not contiguous
    decoded = tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor.SerializeToString()))
    np.testing.assert_array_equal(decoded, array.reshape(-1, 1))


def test_bfloat16_is_decoded_as_float32():
    import tensorflow as tf

    array = np.array([0.1, -3e38, np.inf], tf.bfloat16.as_numpy_dtype)
    list_proto = tensor_pb2.TensorProto(dtype=DTYPES["bfloat16"], tensor_shape=tf.TensorShape([3]).as_proto())
    list_proto.half_val.extend(array.view(np.uint16).tolist())
    for proto in (list_proto, tf.make_tensor_proto(array)):
        decoded = decode(CLASSES["Tensor"].FromString(proto.SerializeToString()))
        assert decoded.dtype == np.float32
        np.testing.assert_array_equal(decoded, array.astype(np.float32))


def test_the_last_value_of_a_short_list_is_repeated():
    import tensorflow as tf

    short = tensor_pb2.TensorProto(dtype=1, tensor_shape=tf.TensorShape([2, 2]).as_proto(), float_val=[1.0, 7.0])
    decoded = decode(CLASSES["Tensor"].FromString(short.SerializeToString()))
    assert decoded.tolist() == [[1.0, 7.0], [7.0, 7.0]]
