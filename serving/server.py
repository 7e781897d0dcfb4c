"""The model server as a whole: from flags to open ports and back."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Any

from serving.errors import StatusError, UsageError, invalid_argument
from serving.flags import Flags, parse, usage
from serving.storage import ModelConfig, check_present, configured_models, find_models

if TYPE_CHECKING:
    from serving.lifecycle import Loader, ModelManager
    from serving.predict import Predictor

log = logging.getLogger("serving")
THREADS_PER_CPU = 4  # as the original server: most threads wait for TensorFlow's own
GRACE_SECONDS = 5.0  # for requests in flight when the server is stopped

EXIT_OK, EXIT_USAGE, EXIT_START = 0, 2, 255


def main(arguments: list[str]) -> int:
    """Run the server until SIGTERM or SIGINT; returns the exit status."""
    try:
        flags = parse(arguments)
        if flags.help:
            print(usage(), end="")
        elif flags.version:
            print(f"TensorFlow Library: {version('tensorflow')}")
        else:
            logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", level=logging.WARNING)
            log.setLevel(logging.INFO)
            serve(flags)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except StatusError as error:
        print(f"Failed to start server. Error: {error}")
        return EXIT_START
    except _Stopped:
        log.info("Stopped")
    return EXIT_OK


class _Stopped(Exception):
    """SIGTERM or SIGINT arrived."""


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
    raise _Stopped


def serve(flags: Flags) -> None:
    """Check, reserve the ports, load, open the ports, wait. What can be refused early needs no TensorFlow."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped)
    models = configured_models(flags)
    check_present(flags, models)
    _check_flags(flags, models)
    grpc_reserved, rest_socket = _reserve_ports(flags)
    manager, predictor = _load(flags, models)

    from serving.grpc_server import GrpcServer
    from serving.rest_server import RestApi, RestServer

    if grpc_reserved:
        grpc_reserved.close()  # now gRPC binds it
    addresses = _grpc_addresses(flags)
    servers: list[Any] = [GrpcServer(predictor, addresses, flags.grpc_max_threads or _threads())]
    if rest_socket:
        threads = flags.rest_api_num_threads or _threads()
        timeout = flags.rest_api_timeout_in_ms / 1000
        servers.append(RestServer(RestApi(manager), rest_socket, threads, timeout, flags.rest_api_enable_cors_support))
    try:
        for server in servers:
            server.start()
        for address in addresses:
            print(f"Running gRPC ModelServer at {address} ...", flush=True)
        if rest_socket:
            print(f"Exporting HTTP/REST API at:{_address(flags, flags.rest_api_port)} ...", flush=True)
        threading.Event().wait()
    finally:
        for server in servers:
            server.stop(GRACE_SECONDS)
        manager.stop()


def _check_flags(flags: Flags, models: list[ModelConfig]) -> None:
    if flags.port == 0 and not flags.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    for model in models:
        if model.labels and not flags.allow_version_labels_for_unavailable_models:
            raise StatusError(  # labels are looked at before anything is loaded
                "FAILED_PRECONDITION",
                f"Request to assign label to version {next(iter(model.labels.values()))} of model "
                f"{model.name}, which is not currently available for inference",
            )


def _threads() -> int:
    return THREADS_PER_CPU * (os.cpu_count() or 1)


def _address(flags: Flags, port: int) -> str:
    return f"[{flags.host}]:{port}" if ":" in flags.host else f"{flags.host}:{port}"


def _grpc_addresses(flags: Flags) -> list[str]:
    addresses = [_address(flags, flags.port)] if flags.port else []
    return addresses + ([f"unix:{flags.grpc_socket_path}"] if flags.grpc_socket_path else [])


def _reserve_ports(flags: Flags) -> tuple[socket.socket | None, socket.socket | None]:
    """Bind the ports (gRPC, REST) without listening: nobody else gets them, and nobody connects too early."""
    grpc_socket = _bind(flags.host, flags.port, "port") if flags.port else None
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        log.error("--rest_api_port cannot be same as --port. Please use a different port for HTTP/REST API.")
        return grpc_socket, None
    return grpc_socket, _bind(flags.host, flags.rest_api_port, "rest_api_port") if flags.rest_api_port else None


def _bind(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, because asyncio sets TCP_NODELAY only on sockets that name it.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # Two sockets with this option share a port until one listens: it is for closed connections' last packets.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--{flag}={port} cannot be used at {host} ({reason}): stop the program that uses it or give "
            f"another port from 1 to 65535, for example --{flag}={port % 60000 + 10}."
        ) from None
    return bound


def _load(flags: Flags, models: list[ModelConfig]) -> tuple[ModelManager, Predictor]:
    """Start the manager; every model has a version available when this returns."""
    print("Loading TensorFlow and the models ...", flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    from serving.lifecycle import ModelManager, Timing
    from serving.predict import Predictor

    timing = Timing(
        flags.file_system_poll_wait_seconds,
        flags.max_num_load_retries,
        flags.load_retry_interval_micros / 1e6,
    )

    def find() -> list[ModelConfig]:  # a models directory is looked through again, a configuration stays
        return find_models(flags.models_dir) if flags.models_dir and not flags.model_config_file else models

    loader: list[Loader] = []
    manager = ModelManager(find, lambda *key: loader[0](*key), timing, flags.num_load_threads or _threads())
    predictor = Predictor(
        manager, flags.enable_signature_method_name_check, flags.enable_serialization_as_tensor_content
    )
    loader.append(make_loader(flags, predictor))
    manager.start()
    return manager, predictor


def make_loader(flags: Flags, predictor: Predictor) -> Callable[[str, int, str], Any]:
    """Loads one version and warms it up."""
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    from serving.servable import Servable
    from serving.warmup import warm_up

    session, intra, inter = (
        flags.tensorflow_session_parallelism,
        flags.tensorflow_intra_op_parallelism,
        flags.tensorflow_inter_op_parallelism,
    )
    if session and intra and inter:
        raise invalid_argument(
            "tensorflow_session_parallelism sets both other parallelism flags: give it or them, not all three"
        )
    config = ConfigProto(
        intra_op_parallelism_threads=intra or session,
        inter_op_parallelism_threads=inter or session,
        allow_soft_placement=True,
    )
    tags = flags.saved_model_tags.split(",")
    tf.get_logger().setLevel("ERROR")  # it would warn that the V1 loader, which takes all SavedModels, is old

    def load(model: str, number: int, path: str) -> Servable:
        servable = Servable(path, tags, config)
        try:
            if flags.enable_model_warmup:
                count = warm_up(servable, number, predictor, flags.num_request_iterations_for_warmup)
                log.info("Replayed %d warm-up requests of %s version %d", count, model, number)
        except BaseException:
            servable.close()
            raise
        return servable

    return load
