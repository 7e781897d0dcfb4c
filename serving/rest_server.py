"""The REST face: URLs of TensorFlow Serving's HTTP API, as an ASGI application on uvicorn."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import uvicorn
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.errors import HTTP_STATUSES, StatusError, UsageError, invalid_argument
from serving.lifecycle import ModelManager
from serving.metadata import SIGNATURES, get_metadata, get_status, message_json, metadata_json
from serving.predict import DEFAULT_SIGNATURE
from serving.rest_json import error_json, parse
from serving.rest_request import read_request, signature_name
from serving.rest_response import columnar_json, row_json

log = logging.getLogger("serving")
INT64_MAX = 2**63 - 1
MAX_INFLATED_BYTES = 100 * 1024 * 1024  # a small body must not grow without bound

# Matched against path and query: a query is no part of the API and spoils the match.
CHOICE = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
VERB_URL = re.compile(rf"/v1/models/(?P<model>[^/:]+){CHOICE}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
MODEL_URL = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{CHOICE}(?:/(?P<part>metadata))?", re.IGNORECASE)

NOT_FOUND_PAGE = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
CORS_HEADERS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]

Headers = dict[bytes, bytes]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: str
    content_type: str = "application/json"


class RestApi:
    """Answers requests; knows HTTP's words but no sockets."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def answer(self, method: str, target: str, headers: Headers, body: bytes) -> Reply:
        """`target` is path and query as sent."""
        if method == "OPTIONS":
            origin = headers.get(b"origin", b"")
            return Reply(200 if origin.startswith((b"http://", b"https://")) else 400, "")
        if not target.lower().startswith("/v1/"):
            return Reply(404, NOT_FOUND_PAGE, "text/html")
        if b"gzip" in headers.get(b"content-encoding", b""):
            body = _inflate(body)
        try:
            return Reply(200, self._route(method, target, body))
        except StatusError as error:
            return failure(error)
        except Exception as error:  # a fault of this server must not look like one of the client
            log.exception("request failed")
            return failure(StatusError("INTERNAL", f"{type(error).__name__}: {error}"))

    def _route(self, method: str, target: str, body: bytes) -> str:
        if method == "POST" and (match := VERB_URL.fullmatch(target)):
            verb, spec = match["verb"], _spec(match)
            if verb == "predict":  # exactly: the match ignores case, the choice of the verb does not
                return self._predict(spec, body)
            if verb in ("classify", "regress"):
                raise StatusError("UNIMPLEMENTED", f"{verb} is not served yet; use predict")
        if method == "GET" and (match := MODEL_URL.fullmatch(target)):
            if not match["model"]:
                raise invalid_argument("Missing model name in request.")
            if match["part"]:
                return self._metadata(_spec(match))
            status = get_status(self._manager, get_model_status_pb2.GetModelStatusRequest(model_spec=_spec(match)))
            return message_json(status)
        raise invalid_argument(f"Malformed request: {method} {target}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = parse(body)
        name = signature_name(document) or DEFAULT_SIGNATURE
        with self._use(spec) as version:
            signature = version.servable.signatures.get(name)
            if signature is None:
                raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
            request = read_request(document, signature)
            arrays = signature.run(request.arrays, signature.all_outputs)
        if not arrays:
            raise invalid_argument("Cannot convert empty tensor map to JSON")
        outputs = {
            alias: (signature.output_types[alias], array)
            for alias, array in zip(signature.all_outputs, arrays, strict=True)
        }
        return row_json(outputs) if request.row_form else columnar_json(outputs)

    def _use(self, spec: model_pb2.ModelSpec) -> Any:
        label = spec.version_label if spec.HasField("version_label") else None
        number = spec.version.value if spec.HasField("version") else None
        return self._manager.use(spec.name, number, label)

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURES])
        return metadata_json(get_metadata(self._manager, request))


def _spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(match["model"]))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > len(str(INT64_MAX)) or int(digits) > INT64_MAX:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def failure(error: StatusError) -> Reply:
    return Reply(HTTP_STATUSES[error.code], error_json(error.message))


def _encoded(text: str) -> bytes:
    """A body as it travels: bytes of the request as they came, half a surrogate pair as JSON escapes it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _inflate(body: bytes) -> bytes:
    """A gzip body, or nothing if it is not one or too large."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, MAX_INFLATED_BYTES)
    except zlib.error:
        return b""
    return inflated if inflater.eof else b""


class RestServer:
    """uvicorn in a thread of its own, requests in a pool of threads."""

    def __init__(self, api: RestApi, bound: socket.socket, threads: int, timeout_seconds: float, cors: bool) -> None:
        self._api, self._socket = api, bound
        self._timeout = timeout_seconds
        self._headers = CORS_HEADERS if cors else []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="rest", daemon=True)

    def start(self) -> None:
        """Returns when the port answers."""
        try:
            self._socket.listen(1024)
        except OSError as error:
            host, port = self._socket.getsockname()[:2]
            raise UsageError(
                f"--rest_api_port={port} cannot be used at {host} ({error.strerror}): give another port."
            ) from None
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(grace_seconds)

    async def _application(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, self._api.answer, scope["method"], target, dict(scope["headers"]), b"".join(chunks)
        )
        try:
            reply = await asyncio.wait_for(work, self._timeout)
        except TimeoutError:
            reply = failure(StatusError("DEADLINE_EXCEEDED", "Timed out waiting for notification"))
        body = _encoded(reply.body)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", b"%d" % len(body)),
            *self._headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
