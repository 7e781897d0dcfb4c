"""Small servers with the responses that a test defines, and certificates; without TensorFlow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc

from serving.client import AsyncClient
from serving.client.wire import CLASSES, encode
from serving.protocol import CODE_NAMES, HTTP_STATUSES


class BlockingClient:
    """An AsyncClient with the methods of a Client, so that both pass the same tests."""

    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **options)
        self.address = address

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *values, **options: self._runner.run(method(*values, **options))

    def stream(self, *values: Any, **options: Any) -> Iterator[Any]:
        pieces = self._client.stream(*values, **options)

        async def next_piece() -> Any:
            return await anext(pieces, None)

        async def close() -> None:
            await pieces.aclose()

        try:
            while (piece := self._runner.run(next_piece())) is not None:
                yield piece
        finally:
            self._runner.run(close())

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


class Failure(Exception):
    """Raised in a test's server to return an error."""

    def __init__(self, code: str, message: str = "") -> None:
        self.code, self.message = code, message


GRPC_METHODS = {
    "Predict": "PredictRequest",
    "Classify": "ClassificationRequest",
    "Regress": "RegressionRequest",
    "GetModelMetadata": "GetModelMetadataRequest",
    "GetModelStatus": "GetModelStatusRequest",
    "Check": "HealthCheckRequest",
}


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, answer: Callable[..., Any], with_context: bool) -> None:
        self._answer, self._with_context = answer, with_context

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]
        headers = dict(details.invocation_metadata)

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return self._answer(name, request, headers, *([context] if self._with_context else []))
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), failure.message)

        return grpc.unary_unary_rpc_method_handler(
            handle, CLASSES[GRPC_METHODS[name]].FromString, lambda message: message.SerializeToString()
        )


@contextmanager
def grpc_server(
    answer: Callable[..., Any],
    credentials: grpc.ServerCredentials | None = None,
    port: int = 0,
    with_context: bool = False,
) -> Iterator[str]:
    """Run a gRPC server that returns `answer(method, message, headers[, context])`; yield its HOST:PORT."""
    server = grpc.server(
        ThreadPoolExecutor(8), handlers=[_Handler(answer, with_context)], options=[("grpc.so_reuseport", 0)]
    )
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(30)


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler, bytes], None], tls: Any = None) -> Iterator[str]:
    """Run an HTTP server whose handler `answer(handler, body)` writes the whole response; yield its address.

    Connections are kept alive unless the handler sets `close_connection`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        do_POST = do_GET

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *values: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


def reply(handler: BaseHTTPRequestHandler, content: Any, status: int = 200, kind: str = "application/json") -> None:
    """Write a response; content that is neither text nor bytes becomes JSON."""
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


STATUS_JSON = {
    "model_version_status": [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
}


def status_message() -> Any:
    status = CLASSES["GetModelStatusResponse"]()
    status.model_version_status.add(version=1, state=30)
    return status


@contextmanager
def status_server(protocol: str, decide: Callable[[dict[str, Any]], None], **options: Any) -> Iterator[str]:
    """Run a server that answers GetModelStatus unless `decide(headers)` raises Failure; yield its address."""

    def answer_grpc(method: str, message: Any, headers: dict[str, Any]) -> Any:
        decide(headers)
        return status_message()

    def answer_http(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        try:
            decide({name.lower(): value for name, value in handler.headers.items()})
        except Failure as failure:
            reply(handler, {"error": failure.message}, HTTP_STATUSES[failure.code])
        else:
            reply(handler, STATUS_JSON)

    with (grpc_server if protocol == "grpc" else http_server)(
        answer_grpc if protocol == "grpc" else answer_http, **options
    ) as address:
        yield address


def tensors_of(outputs: dict[str, Any], version: int = 1) -> Any:
    """Return a PredictResponse."""
    response = CLASSES["PredictResponse"]()
    response.model_spec.version.value = version
    for name, array in outputs.items():
        encode(response.outputs[name], name, array)
    return response


def metadata_of(inputs: dict[str, tuple[int, list[int]]], outputs: dict[str, tuple[int, list[int]]], name: str) -> Any:
    """Return a GetModelMetadataResponse for one signature; tensors are (DataType number, shape)."""
    signatures = CLASSES["SignatureDefMap"]()
    signature = signatures.signature_def[name]
    for infos, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for tensor, (dtype, shape) in tensors.items():
            infos[tensor].dtype = dtype
            for size in shape:
                infos[tensor].tensor_shape.dim.add(size=size)
    response = CLASSES["GetModelMetadataResponse"]()
    response.metadata["signature_def"].value = signatures.SerializeToString()
    return response


def metadata_json(
    inputs: dict[str, tuple[str, list[int]]], outputs: dict[str, tuple[str, list[int]]], name: str
) -> dict[str, Any]:
    """Like `metadata_of` for REST; dtypes are names such as DT_FLOAT."""

    def to_json(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
        return {
            tensor: {"dtype": dtype, "tensor_shape": {"unknown_rank": False, "dim": [{"size": str(n)} for n in shape]}}
            for tensor, (dtype, shape) in tensors.items()
        }

    signature = {"inputs": to_json(inputs), "outputs": to_json(outputs)}
    return {"metadata": {"signature_def": {"signature_def": {name: signature}}}}


class Certificates:
    """A certificate authority, and the certificates that it signed for the server at 127.0.0.1 and for a client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._run("req", "-x509", "-newkey", "ec", *CURVE, "-nodes", "-days", "2", "-subj", "/CN=authority",
                  "-keyout", "ca.key", "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
        for name in ("server", "client"):
            self._run("req", "-newkey", "ec", *CURVE, "-nodes", "-subj", f"/CN={name}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
            (directory / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
            self._run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-out", f"{name}.pem", "-extfile", "extensions")  # fmt: skip

    def path(self, name: str) -> Path:
        return self.directory / name

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True, timeout=60)


CURVE = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
CODES = [code for code in CODE_NAMES if code != "OK"]
