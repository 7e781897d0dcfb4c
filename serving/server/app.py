"""Assemble the server from its flags: model manager, loader, and the transports gRPC and REST."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.api.admission import AdmissionControl, read_tokens
from serving.api.predict import Settings
from serving.engine.runner import Runner
from serving.engine.workers import Workers
from serving.models.manager import ModelManager, Timing
from serving.models.reload import ConfigPoller
from serving.models.storage import ModelConfig, find_models
from serving.rest.api import RestApi, RestOptions
from serving.rest.http.server import HttpServer
from serving.rpc.profiler import Profiler
from serving.rpc.server import MODEL_SERVICE, PREDICTION_SERVICE, GrpcApi, GrpcServer, TokenCheck
from serving.server.loader import Loader
from serving.settings.configuration import Certificates, Monitoring, read_certificates, read_monitoring
from serving.settings.flags import Flags, channel_arguments
from serving.settings.hosts import allowed_hosts
from serving.settings.load_options import load_options_of
from serving.status.examples import Addresses
from serving.status.page import page
from serving.telemetry.access_log import AccessLog
from serving.telemetry.metrics import Metrics
from serving.telemetry.observers import Observers

log = logging.getLogger("serving")
HEALTH_SERVICE = health.SERVICE_NAME
CONNECTION_SECONDS = 30.0  # idle timeout of an HTTP connection if requests have no time limit
FINAL_STATUS_SECONDS = 0.2  # time to send the final status
HEALTH_CHECKED_SERVICES = ("", "ModelService", "PredictionService")  # the short names, like TensorFlow Serving


class Health(health.aio.HealthServicer):
    """Health service that closes its streams at shutdown, because draining would wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait([watching, ending], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([watching], timeout=FINAL_STATUS_SECONDS)
        finally:
            watching.cancel()
            ending.cancel()

    async def enter_graceful_shutdown(self) -> None:
        await super().enter_graceful_shutdown()
        self._ending.set()


class ServerApp:
    """The model manager and both servers. Await `start` and `stop` in the loop."""

    def __init__(self, flags: Flags, models: list[ModelConfig], loop: asyncio.AbstractEventLoop) -> None:
        tf.get_logger().setLevel("ERROR")  # no deprecation warning of the V1 loader, which loads all SavedModels
        self._flags = flags
        self._certificates = read_certificates(flags.ssl_config_file) if flags.ssl_config_file else None
        tokens = read_tokens(flags.api_token_file) if flags.api_token_file else ()
        self._admission = AdmissionControl(tokens, flags.max_concurrent_requests, flags.max_request_bytes)
        settings = Settings(
            flags.enable_signature_method_name_check,
            flags.enable_serialization_as_tensor_content,
            self._admission.max_bytes,
        )
        metrics = Metrics()
        self._access_log = AccessLog(flags.access_log_file, metrics) if flags.access_log_file else None
        self._observers = Observers(metrics, self._access_log)
        workers = Workers(loop, flags.grpc_max_threads + flags.rest_api_num_threads)
        runner = Runner(workers, metrics)
        self.manager = make_manager(flags, models, Loader(load_options_of(flags), settings, metrics, loop, workers))
        profiler = Profiler() if flags.enable_profiler else None
        self._grpc_api = GrpcApi(
            self.manager, runner, self._admission, self._observers, settings, profiler, flags.allow_config_reload
        )
        options = RestOptions(
            flags.rest_seconds,
            allowed_hosts(flags.host, flags.rest_api_allowed_hosts),
            flags.rest_api_enable_cors_support,
            flags.rest_api_extensions,
            _metrics_path(flags),
            lambda: page(self.manager, metrics, _addresses(flags)),
            min(flags.rest_api_max_request_bytes or self._admission.max_bytes, self._admission.max_bytes),
            flags.rest_api_max_values or sys.maxsize,
        )
        self._rest_api = RestApi(self.manager, runner, self._admission, self._observers, settings, options)
        self._health = Health()
        self._http: HttpServer | None = None
        self._poller = ConfigPoller(self.manager, flags.model_config_file, flags.model_config_file_poll_wait_seconds)

    @property
    def requests(self) -> int:
        """Number of requests in flight."""
        return self._admission.requests

    def load(self) -> None:
        """Load the models; return when each has an available version, raise if a model fails."""
        self.manager.start()
        if self._flags.model_config_file and self._flags.model_config_file_poll_wait_seconds > 0:
            self._poller.start()

    async def start(self, grpc_addresses: list[str], rest_socket: socket.socket | None) -> None:
        """Start both servers; return when the ports are open."""
        flags = self._flags
        self._grpc = GrpcServer(
            self._grpc_api.handlers(),
            grpc_addresses,
            self._admission.max_bytes,
            _credentials(flags, self._certificates),
            channel_arguments(flags),
            self._add_services,
            [TokenCheck(self._admission, self._observers, HEALTH_SERVICE)] if self._admission.requires_token else [],
        )
        if rest_socket is not None:
            tls = self._certificates.context() if flags.rest_api_enable_tls and self._certificates else None
            self._http = HttpServer(
                self._rest_api.handle,
                rest_socket,
                max(1.0, flags.rest_seconds or CONNECTION_SECONDS),
                self._rest_api.max_bytes,
                self._rest_api.refusal,
                tls,
            )
            await self._http.start()
        await self._grpc.start()
        for name in HEALTH_CHECKED_SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, seconds: float) -> None:
        """Stop accepting requests; requests in flight have `seconds` to complete."""
        self._rest_api.ready = False
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(self._grpc.stop(seconds), *([self._http.stop(seconds)] if self._http else []))
        self._poller.stop()
        self.manager.stop()
        if self._access_log is not None:
            self._access_log.close()

    def _add_services(self, server: Any) -> None:
        """Register health checks and reflection."""
        names = [PREDICTION_SERVICE, MODEL_SERVICE, reflection.SERVICE_NAME]
        if self._flags.enable_grpc_healthcheck_service:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            names.append(HEALTH_SERVICE)
        reflection.enable_server_reflection(names, server)


def make_manager(flags: Flags, models: list[ModelConfig], loader: Loader) -> ModelManager:
    """Return a manager that has not been started."""
    timing = Timing(
        flags.file_system_poll_wait_seconds, flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6
    )

    def find() -> list[ModelConfig]:  # scan a models directory again; a configuration does not change
        return find_models(flags.models_dir) if flags.models_dir and not flags.model_config_file else models

    return ModelManager(
        find,
        loader,
        timing,
        flags.num_load_threads,
        flags.num_unload_threads,
        flags.allow_version_labels_for_unavailable_models,
    )


def _metrics_path(flags: Flags) -> str:
    """Return the URL path of the Prometheus metrics; "" if disabled."""
    monitoring = read_monitoring(flags.monitoring_config_file) if flags.monitoring_config_file else Monitoring()
    return monitoring.path if monitoring.enabled else ""


def _addresses(flags: Flags) -> Addresses:
    """Return the addresses of this server for its status page."""
    scheme = "https" if flags.rest_api_enable_tls else "http"
    host = "localhost" if flags.host in ("127.0.0.1", "::1", "0.0.0.0", "::") else flags.host
    grpc_address = f"{host}:{flags.port}" if flags.port else f"unix:{flags.grpc_socket_path}"
    return Addresses(f"{scheme}://{host}:{flags.rest_api_port}", grpc_address)


def _credentials(flags: Flags, certificates: Certificates | None) -> grpc.ServerCredentials | None:
    if flags.use_alts_credentials:
        return grpc.alts_server_credentials()
    if certificates is None:
        return None
    return grpc.ssl_server_credentials(
        [(certificates.server_key, certificates.server_cert)],
        certificates.custom_ca or None,
        certificates.client_verify,
    )
