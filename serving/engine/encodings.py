"""Encodings of a TensorInfo in a signature: one tensor, or a type that the protocol cannot represent."""

from __future__ import annotations

from typing import Any

from tensorflow.core.framework import types_pb2

# {name of a TypeSpec in a SavedModel: its name in messages}
COMPOSITE_TYPES = {"RaggedTensorSpec": "a ragged tensor", "SparseTensorSpec": "a sparse tensor"}
VALUELESS_DTYPES = (types_pb2.DT_INVALID, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT)


def composite_spec(info: Any) -> str:
    """Return the TypeSpec of a TensorInfo encoded as several tensors, such as RaggedTensorSpec; "" for one tensor."""
    encoding = info.WhichOneof("encoding")
    if encoding == "coo_sparse":
        return "SparseTensorSpec"
    if encoding == "composite_tensor":
        return info.composite_tensor.type_spec.type_spec_class_name or "CompositeTensor"
    return ""


def unsendable_reason(info: Any) -> str:
    """Return why no TensorProto can represent a TensorInfo, such as "a ragged tensor"; "" if one can.

    TensorFlow Serving feeds and fetches the tensor called `TensorInfo.name` (its predict_util.cc, and GetInputValues in
    TensorFlow's cc/saved_model/util.cc). A composite tensor has no name, only its components have: a request
    fails with INVALID_ARGUMENT "Tensor :0, specified in either feed_devices or fetch_devices was not found in
    the Graph" (tensorflow/serving issues 2084 and 2222).
    """
    if spec := composite_spec(info):
        return COMPOSITE_TYPES.get(spec, f"a composite tensor ({spec})")
    if not info.name:
        return "without a tensor in the graph"
    if info.dtype not in types_pb2.DataType.values():
        return f"of the unknown type {info.dtype}"
    if info.dtype in VALUELESS_DTYPES:
        return f"of type {types_pb2.DataType.Name(info.dtype).removeprefix('DT_').lower()}"
    return ""
