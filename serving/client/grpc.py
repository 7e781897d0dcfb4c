"""The client over gRPC: message format and transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.client.calls import Question
from serving.client.errors import ServingError, failure, unavailable
from serving.client.types import Classification, Metadata, ModelSpec, Tensors, Tls, VersionStatus
from serving.client.values import Features, as_bytes
from serving.client.wire import CLASSES, decode, describe, encode
from serving.protocol import CODE_NAMES, INIT_OPERATION

STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
SERVING = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus

# Parts of gRPC's own UNAVAILABLE messages about missing and lost connections; other texts come from the server.
CONNECTION_ERRORS = (
    "failed to connect",
    "resolution",
    "Socket closed",
    "onnection reset",
    "onnection refused",
    "Broken pipe",
    "GOAWAY",
    "keepalive",
    "recvmsg",
    "sendmsg",
)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # feature maps outgrow the default of 4 MiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # proxies in environment variables are meant for the web, not for this server
    ("grpc.initial_reconnect_backoff_ms", 200),  # connects soon to a server that is just starting
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True)
class Rpc:
    """A request: the full name of the method, its message, and the class of the response."""

    method: str
    message: Any
    answer: Any


class GrpcFormat:
    """Requests and responses as protocol buffer messages."""

    describes_outputs = True

    def __init__(self, address: str) -> None:
        self.address = address

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors) -> Rpc:
        request = CLASSES["PredictRequest"]()
        _fill_spec(request.model_spec, spec, signature)
        for name, array in inputs.items():
            encode(request.inputs[name], name, array)
        return Rpc(PREDICTION + "Predict", request, CLASSES["PredictResponse"])

    def read_predict(self, answer: Any, outputs: Mapping[str, Any]) -> Tensors:
        return {name: decode(tensor) for name, tensor in answer.outputs.items()}

    def read_version(self, answer: Any) -> int | None:
        return answer.model_spec.version.value if answer.model_spec.HasField("version") else None

    def classify(self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None) -> Question:
        request = CLASSES["ClassificationRequest"]()
        _fill_examples(request, spec, signature, examples, context)
        return Rpc(PREDICTION + "Classify", request, CLASSES["ClassificationResponse"]), self._read_classify

    def _read_classify(self, answer: Any) -> list[list[Classification]]:
        return [[Classification(c.label, c.score) for c in row.classes] for row in answer.result.classifications]

    def regress(self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None) -> Question:
        request = CLASSES["RegressionRequest"]()
        _fill_examples(request, spec, signature, examples, context)
        return Rpc(PREDICTION + "Regress", request, CLASSES["RegressionResponse"]), self._read_regress

    def _read_regress(self, answer: Any) -> np.ndarray:
        return np.array([row.value for row in answer.result.regressions], np.float32)

    def metadata(self, spec: ModelSpec) -> Question:
        request = CLASSES["GetModelMetadataRequest"](metadata_field=["signature_def"])
        _fill_spec(request.model_spec, spec)
        return Rpc(PREDICTION + "GetModelMetadata", request, CLASSES["GetModelMetadataResponse"]), self._read_metadata

    def _read_metadata(self, answer: Any) -> Metadata:
        signatures = CLASSES["SignatureDefMap"].FromString(answer.metadata["signature_def"].value)
        return {
            name: {"inputs": describe(signature.inputs), "outputs": describe(signature.outputs)}
            for name, signature in signatures.signature_def.items()
            if name != INIT_OPERATION
        }

    def status(self, spec: ModelSpec) -> Question:
        request = CLASSES["GetModelStatusRequest"]()
        _fill_spec(request.model_spec, spec)
        return Rpc(MODEL + "GetModelStatus", request, CLASSES["GetModelStatusResponse"]), self._read_status

    def _read_status(self, answer: Any) -> list[VersionStatus]:
        return [
            VersionStatus(s.version, STATES[s.state], CODE_NAMES[s.status.error_code], s.status.error_message)
            for s in answer.model_version_status
        ]

    def models(self) -> Question:
        raise failure("UNIMPLEMENTED", f"gRPC has no list of models; ask the REST port of {self.address}: http://...")

    def ready(self) -> Question:
        request = CLASSES["HealthCheckRequest"](service="PredictionService")
        return Rpc("/grpc.health.v1.Health/Check", request, CLASSES["HealthCheckResponse"]), self._read_ready

    def _read_ready(self, answer: Any) -> bool:
        return answer.status == SERVING

    def stream(self, spec: ModelSpec, signature: str, inputs: Tensors, steps: int) -> None:
        return None


class Channel:
    """Base of the sync and async transports: opens a channel and caches the methods called so far."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        """`address` is grpc://HOST:PORT or grpcs://HOST:PORT; without a scheme it means grpc://."""
        scheme, _, target = address.rpartition("://")
        self._address, self._target = address, target
        self._credentials = _credentials(tls or Tls()) if scheme == "grpcs" else None
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._methods: dict[str, Any] = {}

    def _connect(self, library: Any) -> Any:
        """Open a channel of `library`: `grpc` or `grpc.aio`."""
        if self._credentials is None:
            return library.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        return library.secure_channel(self._target, self._credentials, options=CHANNEL_OPTIONS)

    def _method(self, channel: Any, request: Rpc) -> Any:
        method = self._methods.get(request.method)
        if method is None:
            method = self._methods[request.method] = channel.unary_unary(
                request.method,
                request_serializer=type(request.message).SerializeToString,
                response_deserializer=request.answer.FromString,
            )
        return method

    def _failure(self, error: Any) -> ServingError:
        code, message = error.code().name, error.details() or ""
        if code == "UNAVAILABLE" and any(words in message for words in CONNECTION_ERRORS):
            return unavailable(self._address, message)
        return failure(code, message)


class GrpcTransport(Channel):
    """Sends requests over one channel, which threads may share; it reconnects by itself."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        super().__init__(address, token, tls)
        self._channel = self._connect(grpc)

    def send(self, request: Rpc, seconds: float) -> Any:
        try:
            return self._method(self._channel, request)(request.message, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport(Channel):
    """Sends requests over one channel, bound to the event loop that sends the first one."""

    _channel: Any = None

    async def send(self, request: Rpc, seconds: float) -> Any:
        if self._channel is None:
            self._channel = self._connect(grpc.aio)
        try:
            return await self._method(self._channel, request)(request.message, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    def content(path: str | Path | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return grpc.ssl_channel_credentials(content(tls.authority), content(tls.key), content(tls.certificate))


def _fill_spec(message: Any, spec: ModelSpec, signature: str = "") -> None:
    message.name, message.signature_name = spec.name, signature
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.label is not None:
        message.version_label = spec.label


def _fill_examples(
    request: Any, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None
) -> None:
    _fill_spec(request.model_spec, spec, signature)
    if context is None:
        request.input.example_list.SetInParent()
        listed = request.input.example_list
    else:
        listed = request.input.example_list_with_context
        _fill_features(listed.context, context)
    for example in examples:
        _fill_features(listed.examples.add(), example)


def _fill_features(example: Any, features: Features) -> None:
    example.features.SetInParent()
    for name, values in features.items():
        feature = example.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value = np.array(values, "<f4").tobytes()
        else:
            feature.bytes_list.value.extend([as_bytes(name, value) for value in values])
