"""gRPC: PredictionService, ModelService and ProfilerService; token check and server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.api.admission import AdmissionControl
from serving.api.inference import classify, first_spec, multi_inference, regress, repeated_context_bytes
from serving.api.metadata import get_metadata, get_status
from serving.api.predict import Settings, predict, required_model_spec, version_choice
from serving.engine.runner import LARGE_BYTES, Runner
from serving.engine.servable import Call
from serving.engine.tensors import repeated_bytes
from serving.errors import StatusError, UsageError, invalid_argument
from serving.models.manager import ModelManager, Version
from serving.models.reload import handle_reload
from serving.protocol import CODE_NAMES
from serving.rpc.profiler import SERVICE as PROFILER_SERVICE
from serving.rpc.profiler import Profiler, ProfileRequest, TerminateRequest
from serving.telemetry.observers import Observers, Record

MAX_STATUS_BYTES = 1024  # of a status, which is sent in a header; longer ones break some clients
PREDICTION_SERVICE, MODEL_SERVICE = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"

Prepare = Callable[[Any, int, Any, Settings], Call]
# (request, its record, remaining seconds) -> response, or its bytes
Handler = Callable[[Any, Record, float | None], Awaitable[Message | bytes]]


class Method(NamedTuple):
    """A gRPC method: the class of its requests, and its handler."""

    request: Any
    handler: Handler


class GrpcApi:
    """Handles the methods of all services; independent of sockets."""

    def __init__(
        self,
        manager: ModelManager,
        runner: Runner,
        admission: AdmissionControl,
        observers: Observers,
        settings: Settings,
        profiler: Profiler | None = None,
        allow_reload: bool = True,
    ) -> None:
        self._manager, self._runner, self._admission, self._observers = manager, runner, admission, observers
        self._settings, self._allow_reload = settings, allow_reload
        self.methods: dict[str, dict[str, Method]] = {
            PREDICTION_SERVICE: {
                "Predict": Method(
                    predict_pb2.PredictRequest,
                    self._inference_handler("Predict", predict, required_model_spec, _repeated_bytes),
                ),
                "Classify": Method(
                    classification_pb2.ClassificationRequest,
                    self._inference_handler("Classify", classify, required_model_spec, repeated_context_bytes),
                ),
                "Regress": Method(
                    regression_pb2.RegressionRequest,
                    self._inference_handler("Regress", regress, required_model_spec, repeated_context_bytes),
                ),
                "MultiInference": Method(
                    inference_pb2.MultiInferenceRequest,
                    self._inference_handler("MultiInference", multi_inference, first_spec, repeated_context_bytes),
                ),
                "GetModelMetadata": Method(get_model_metadata_pb2.GetModelMetadataRequest, self._metadata),
            },
            MODEL_SERVICE: {
                "GetModelStatus": Method(get_model_status_pb2.GetModelStatusRequest, self._status),
                "HandleReloadConfigRequest": Method(model_management_pb2.ReloadConfigRequest, self._reload),
            },
        }
        if profiler is not None:
            self.methods[PROFILER_SERVICE] = {
                "Profile": Method(ProfileRequest, lambda request, record, seconds: profiler.profile(request)),
                "Terminate": Method(TerminateRequest, lambda request, record, seconds: profiler.terminate(request)),
            }

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Return the handlers for a gRPC server. They receive bytes, so that invalid messages get a clear error."""
        return [
            grpc.method_handlers_generic_handler(
                service,
                {
                    name: grpc.unary_unary_rpc_method_handler(self._bytes_handler(name, method))
                    for name, method in methods.items()
                },
            )
            for service, methods in self.methods.items()
        ]

    def _bytes_handler(self, name: str, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle_call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            record = Record("GRPC", name, context.peer(), len(data))
            try:
                with self._admission.admit():
                    response = await self._response(data, method, record, context.time_remaining())
                record.response_bytes = len(response)
                return response
            except BaseException as error:  # stored nowhere: its traceback refers to all memory of the request
                message = _cut(self._observers.fail_request(record, error).message)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._observers.end_request(record)
            await context.abort(grpc.StatusCode[record.code], message)
            raise AssertionError("abort raises")

        return handle_call

    async def _response(self, data: bytes, method: Method, record: Record, seconds: float | None) -> bytes:
        read = method.request.FromString
        try:
            request = await self._runner.submit(read, data) if len(data) > LARGE_BYTES else read(data)
        except DecodeError:
            raise invalid_argument(f"The request is not a {method.request.DESCRIPTOR.full_name}.") from None
        response = await method.handler(request, record, seconds)
        return response if isinstance(response, bytes) else response.SerializeToString()

    def _inference_handler(
        self, name: str, prepare: Prepare, spec_of: Callable[[Any], Any], weigh: Callable[[Any], int]
    ) -> Handler:
        """Return the handler of a method that runs signatures; `spec_of` returns the ModelSpec of a request.

        `weigh` returns the size of a small request in memory, which may be larger than its message.
        """

        async def handle(request: Any, record: Record, seconds: float | None) -> bytes:
            spec = spec_of(request)
            self._observers.start_request(record, name, spec)

            def prepare_call(version: Version) -> Call:
                record.version = version.number
                call = prepare(version.servable, version.number, request, self._settings)
                return call.then(lambda response: response.SerializeToString())  # in the same thread

            large = record.request_bytes > LARGE_BYTES
            size = record.request_bytes if large else max(record.request_bytes, weigh(request))
            return await self._runner.execute(
                self._manager.use(*version_choice(spec)), name, prepare_call, size, seconds
            )

        return handle

    async def _metadata(self, request: Any, record: Record, seconds: float | None) -> Message:
        self._observers.start_request(record, "GetModelMetadata", request.model_spec)
        return get_metadata(self._manager, request)

    async def _status(self, request: Any, record: Record, seconds: float | None) -> Message:
        self._observers.start_request(record, "GetModelStatus", request.model_spec)
        return get_status(self._manager, request)

    async def _reload(self, request: Any, record: Record, seconds: float | None) -> Message:
        if not self._allow_reload:
            raise StatusError(
                "PERMISSION_DENIED",
                "This server was started with --allow_config_reload=false: change its --model_config_file, "
                "which it reads again with --model_config_file_poll_wait_seconds.",
            )
        # Loading may take minutes, so it does not block a thread that runs models.
        response = await asyncio.to_thread(handle_reload, self._manager, request, self._observers.metrics.value)
        if response.status.error_code:
            raise StatusError(CODE_NAMES[response.status.error_code], response.status.error_message)
        return response


def _cut(message: str) -> str:
    """Cut a message to MAX_STATUS_BYTES, like TensorFlow Serving: the header may need three bytes for one."""
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= MAX_STATUS_BYTES:
        return message
    return encoded[:MAX_STATUS_BYTES].decode("utf-8", "ignore") + "...TRUNCATED"


def _repeated_bytes(request: predict_pb2.PredictRequest) -> int:
    """Return the memory for repeated values of its tensors."""
    return repeated_bytes(request.inputs.values())


def _authorization(metadata: Any) -> str | None:
    for name, value in metadata or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


class TokenCheck(grpc.aio.ServerInterceptor):
    """Checks the token before a message is read. The service `exempt` needs none."""

    def __init__(self, admission: AdmissionControl, observers: Observers, exempt: str) -> None:
        self._admission, self._observers, self._exempt = admission, observers, f"/{exempt}/"

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        if not details.method.startswith(self._exempt):
            try:
                self._admission.check_token(_authorization(details.invocation_metadata))
            except StatusError as error:
                return self._refusal_handler(details.method, error)
        return await continuation(details)

    def _refusal_handler(self, method: str, error: StatusError) -> grpc.RpcMethodHandler:
        """Return a handler that refuses any method, unary or streaming."""

        async def refuse(messages: Any, context: grpc.aio.ServicerContext) -> None:
            record = Record("GRPC", method.rpartition("/")[2], context.peer(), 0)
            self._observers.fail_request(record, error)
            self._observers.end_request(record)
            await context.abort(grpc.StatusCode[error.code], error.message)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _filter_disconnects(record: logging.LogRecord) -> bool:
    """Filter log records: gRPC logs a client that disconnects before its response as a server error, with traceback."""
    return record.exc_info is None or type(record.exc_info[1]).__name__ != "ExecuteBatchError"


class GrpcServer:
    """A gRPC server on `addresses` (HOST:PORT or unix:PATH)."""

    def __init__(
        self,
        handlers: Iterable[grpc.GenericRpcHandler],
        addresses: Iterable[str],
        max_bytes: int,
        credentials: grpc.ServerCredentials | None,
        arguments: Iterable[tuple[str, Any]],
        add_services: Callable[[grpc.aio.Server], None],
        interceptors: Iterable[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its requests at random
            *arguments,
        ]
        logging.getLogger("grpc._cython.cygrpc").addFilter(_filter_disconnects)
        self._server = grpc.aio.server(options=options, interceptors=tuple(interceptors))
        self._server.add_generic_rpc_handlers(tuple(handlers))
        add_services(self._server)
        self._credentials = credentials
        for address in addresses:
            self._add(address)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls; those in flight get `grace_seconds` to end."""
        await self._server.stop(grace_seconds)

    def _add(self, address: str) -> None:
        try:
            if self._credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise UsageError(f"gRPC cannot listen at {address} ({error}): give another --port.") from None
