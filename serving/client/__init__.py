"""Client of a model server, with the same methods over gRPC and REST; needs no TensorFlow.

with Client("localhost:8500") as client:  # or "http://localhost:8501"
    client.predict("translation", {"text": ["a sentence"]})["translation"]
    for piece in client.stream("text_generation", {"prompt": ["The "], ...}, steps=10):
        print(piece["text"][0].decode(), end="")

`AsyncClient` has the same methods for asyncio.
"""

from serving.client.async_client import AsyncClient
from serving.client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from serving.client.sync_client import Client
from serving.client.types import Classification, Metadata, ModelSpec, Tensors, Tls, VersionStatus
from serving.protocol import DEFAULT_SIGNATURE

__all__ = [
    "DEFAULT_SIGNATURE",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Classification",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Metadata",
    "ModelSpec",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "ServingError",
    "Tensors",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionStatus",
]
