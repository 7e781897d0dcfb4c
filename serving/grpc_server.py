"""The gRPC face: PredictionService and ModelService. Methods that are not overridden answer UNIMPLEMENTED."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.errors import StatusError, UsageError
from serving.metadata import get_metadata, get_status
from serving.predict import Predictor

log = logging.getLogger("serving")
MAX_MESSAGE_CHARACTERS = 1024  # a status travels in a header; longer ones break some clients

Request = TypeVar("Request")
Response = TypeVar("Response")


def _answer(function: Callable[[Request], Response], request: Request, context: grpc.ServicerContext) -> Response:
    """The response of `function`, or its StatusError as the status of the call."""
    try:
        return function(request)
    except StatusError as error:
        code, message = error.code, error.message
    except Exception as error:  # a fault of this server must not look like one of the client
        log.exception("request failed")
        code, message = "INTERNAL", f"{type(error).__name__}: {error}"
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[:MAX_MESSAGE_CHARACTERS] + "...TRUNCATED"
    context.abort(grpc.StatusCode[code], message)
    raise AssertionError("abort raises")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        return _answer(self._predictor.predict, request, context)

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _answer(lambda r: get_metadata(self._predictor.manager, r), request, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _answer(lambda r: get_status(self._predictor.manager, r), request, context)


class GrpcServer:
    """A gRPC server on `addresses` (HOST:PORT or unix:PATH)."""

    def __init__(self, predictor: Predictor, addresses: list[str], threads: int) -> None:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.so_reuseport", 0),  # two servers on one port would share its requests at random
        ]
        self._server = grpc.server(ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(predictor), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(predictor), self._server)
        for address in addresses:
            self._add(address)

    def start(self) -> None:
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls; those in flight get `grace_seconds` to end."""
        self._server.stop(grace_seconds).wait()

    def _add(self, address: str) -> None:
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(f"gRPC cannot listen at {address} ({error}): give another --port.") from None
