"""The client's own description of the messages agrees with the original one."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.wrappers_pb2 import Int64Value
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

from serving.client import DTYPES
from serving.errors import CODE_NAMES
from serving.wire import CLASSES

ORIGINALS = {
    "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
    "TensorShape": tensor_shape_pb2.TensorShapeProto,
    "Tensor": tensor_pb2.TensorProto,
    "Int64Value": Int64Value,
    "ModelSpec": model_pb2.ModelSpec,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "TensorInfo": meta_graph_pb2.TensorInfo,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "Status": status_pb2.StatusProto,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
}
SAME_ON_THE_WIRE = {
    (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM),
    (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_FLOAT),  # packed
    (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_DOUBLE),
}


@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_fields_have_the_numbers_and_types_of_the_original(name):
    original = {field.name: field for field in ORIGINALS[name].DESCRIPTOR.fields}
    for field in CLASSES[name].DESCRIPTOR.fields:
        theirs = original[field.name]
        assert field.number == theirs.number
        assert field.is_repeated == theirs.is_repeated
        assert field.type == theirs.type or (field.type, theirs.type) in SAME_ON_THE_WIRE


def test_numbers_of_dtypes_and_codes():
    import tensorflow as tf

    assert {name: tf.as_dtype(name).as_datatype_enum for name in DTYPES} == DTYPES
    assert DTYPES["string"] == types_pb2.DT_STRING
    assert [
        CODE_NAMES.index("NOT_FOUND"),
        CODE_NAMES.index("UNAUTHENTICATED"),
    ] == [tf.errors.NOT_FOUND, tf.errors.UNAUTHENTICATED]
