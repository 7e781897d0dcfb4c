"""REST: route requests to handlers, and turn results and errors into HTTP replies."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.api.admission import AdmissionControl
from serving.api.metadata import SIGNATURES, get_metadata, get_status, message_json, metadata_json
from serving.api.predict import Settings, version_choice
from serving.engine.runner import LARGE_BYTES, Runner
from serving.engine.servable import Call
from serving.errors import StatusError, invalid_argument
from serving.models.manager import ModelManager, Use, Version
from serving.protocol import HTTP_STATUSES, MAX_MESSAGE_BYTES
from serving.rest.body import TooLarge, inflate, too_many_bytes
from serving.rest.examples import read_examples
from serving.rest.http.hosts import Misdirected, resolve
from serving.rest.http.messages import Reply, Request
from serving.rest.inference import PredictRequest, prepare_examples
from serving.rest.json_text import error_json, parse
from serving.rest.request import signature_name
from serving.rest.response import LARGE_JSON_RESULT, encode_json
from serving.rest.stream import events
from serving.rest.urls import HEALTH_TARGETS, MODEL_URL, STREAM_URL, VERB_URL, VERBS, read_spec
from serving.telemetry.observers import Observers, Record

LARGE_EXAMPLES_BYTES = 4096  # of JSON; converting more takes longer than switching threads

NOT_FOUND_PAGE = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
CORS_HEADERS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)


@dataclass(frozen=True)
class RestOptions:
    """REST options, set by flags. `metrics_path` "": no metrics; `page` renders the status page."""

    timeout: float | None = 30.0  # seconds; None: no limit
    hosts: frozenset[str] | None = None  # allowed hosts of requests; None: any
    cors: bool = False
    extensions: bool = False
    metrics_path: str = ""
    page: Callable[[], str] = lambda: ""
    max_bytes: int = MAX_MESSAGE_BYTES  # in a body
    max_values: int = sys.maxsize  # in its JSON


class RestApi:
    """Routes and handles HTTP requests; independent of sockets."""

    def __init__(
        self,
        manager: ModelManager,
        runner: Runner,
        admission: AdmissionControl,
        observers: Observers,
        settings: Settings,
        options: RestOptions,
    ) -> None:
        self._manager, self._runner, self._admission, self._observers = manager, runner, admission, observers
        self._settings, self._options = settings, options
        self.max_bytes = options.max_bytes
        self.ready = True  # until the server drains

    async def handle(self, request: Request) -> Reply:
        """Return the reply to a request; an exception becomes an error reply. Raises only cancellation."""
        record = Record("REST", request.method, request.peer, len(request.body))
        try:
            reply = await self._route(request, record)
        except BaseException as error:  # stored nowhere: its traceback refers to all memory of the request
            reply = error_reply(self._observers.fail_request(record, error))
            if not isinstance(error, Exception):
                self._observers.end_request(record)
                raise
        if isinstance(reply.body, bytes):
            record.response_bytes = len(reply.body)
            self._observers.end_request(record)
        else:
            stream = self._record_stream(reply.body, record)
            await anext(stream)
            reply = Reply(reply.status, stream, reply.content_type, reply.headers)
        return self._with_cors(reply)

    def refusal(self, request: Request, size: int) -> Reply | None:
        """Return the reply if a request is refused before its body of at least `size` bytes is read, else None."""
        try:
            request = resolve(request, self._options.hosts)
            if not self._is_public(request):
                self._admission.check_token(_authorization(request))
                if _is_model_request(request):
                    self._admission.check_capacity()
            if size > self.max_bytes:
                raise too_many_bytes(size, self.max_bytes)
        except StatusError as error:
            record = Record("REST", request.method, request.peer, size)
            reply = error_reply(self._observers.fail_request(record, error))
            record.response_bytes = len(cast(bytes, reply.body))
            self._observers.end_request(record)
            return self._with_cors(reply)
        return None

    async def _route(self, request: Request, record: Record) -> Reply:
        request = resolve(request, self._options.hosts)
        method, target = request.method, request.target
        if method == "OPTIONS":
            return _options(request)
        if self._is_public(request):
            return self._health(target)
        self._admission.check_token(_authorization(request))
        if not _is_model_request(request):
            return await self._page(request)
        with self._admission.admit():
            async with asyncio.timeout(self._options.timeout):
                if method == "POST" and (match := VERB_URL.fullmatch(target)):
                    spec = read_spec(match)
                    if match["verb"] in VERBS:
                        return await self._infer(match["verb"], spec, request, record)
                if method == "GET" and (match := MODEL_URL.fullmatch(target)):
                    return self._describe(match, record)
                if self._options.extensions and method == "POST" and (match := STREAM_URL.fullmatch(target)):
                    return await self._stream(read_spec(match), request, record)
                raise invalid_argument(f"Malformed request: {method} {target}")

    async def _infer(self, verb: str, spec: model_pb2.ModelSpec, request: Request, record: Record) -> Reply:
        api = verb.capitalize()
        self._observers.start_request(record, api, spec)
        document, size = await self._read(request)
        record.signature = signature_name(document)
        prepare: Callable[[Version], Call]
        if verb == "predict":
            prepare = PredictRequest(document, record).prepare
        else:  # as in TensorFlow Serving, examples are read before the model is looked up, predict inputs after
            large = size > LARGE_EXAMPLES_BYTES
            examples = await self._runner.submit(read_examples, document) if large else read_examples(document)
            prepare = prepare_examples(verb, examples, record, self._settings)
        del document  # it may hold most of the request's memory
        answer = await self._runner.execute(
            self._use(spec), api, prepare, size, self._options.timeout, LARGE_JSON_RESULT
        )
        return Reply(200, answer)

    async def _stream(self, spec: model_pb2.ModelSpec, request: Request, record: Record) -> Reply:
        self._observers.start_request(record, "stream", spec)
        document, size = await self._read(request)
        use, timeout = self._use(spec), self._options.timeout
        stream = await events(self._runner, self._admission, use, document, size > LARGE_BYTES, timeout, record)
        return Reply(200, stream, "text/event-stream")

    async def _read(self, request: Request) -> tuple[dict[str, Any], int]:
        """Return the JSON object of a request and its size in bytes."""
        body, max_values = request.body, self._options.max_values
        if b"gzip" in request.headers.get(b"content-encoding", b""):
            body = await self._runner.submit(inflate, body, self.max_bytes)
        if len(body) > LARGE_BYTES:
            return await self._runner.submit(parse, body, max_values), len(body)
        return parse(body, max_values), len(body)

    def _use(self, spec: model_pb2.ModelSpec) -> Use:
        return self._manager.use(*version_choice(spec))

    def _describe(self, match: re.Match[str], record: Record) -> Reply:
        """Return the status or the metadata of a model, or the list of models."""
        if not match["model"]:
            if not self._options.extensions or any(match.groups()):
                raise invalid_argument("Missing model name in request.")
            return _json(json.dumps({"models": [self._model_entry(name) for name in self._manager.models()]}, indent=4))
        spec = read_spec(match)
        self._observers.start_request(record, "GetModelMetadata" if match["part"] else "GetModelStatus", spec)
        if match["part"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURES])
            return _json(metadata_json(get_metadata(self._manager, request)))
        return _json(
            message_json(get_status(self._manager, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))
        )

    def _model_entry(self, name: str) -> dict[str, Any]:
        versions = [{"version": str(number), "state": state} for number, state, _ in self._manager.versions(name)]
        return {"name": name, "versions": versions}

    def _is_public(self, request: Request) -> bool:
        """Return whether a request needs no token: health checks and CORS preflights."""
        health = self._options.extensions and request.method == "GET" and request.target in HEALTH_TARGETS
        return health or request.method == "OPTIONS"

    def _health(self, target: str) -> Reply:
        healthy = target == "/healthz" or (self.ready and self._manager.ready())
        return Reply(200, b"ok\n", "text/plain") if healthy else Reply(503, b"not ready\n", "text/plain")

    async def _page(self, request: Request) -> Reply:
        """Serve metrics and the status page. They monitor the server, so they do not count as its requests."""
        if request.method == "GET" and request.target == self._options.metrics_path:
            # Directory names need not be UTF-8.
            return Reply(200, self._observers.metrics.text().encode("utf-8", "replace"), "text/plain")
        if request.method == "GET" and request.target == "/" and self._options.extensions:
            return Reply(200, (await self._runner.submit(self._options.page)).encode(), "text/html; charset=utf-8")
        return Reply(404, NOT_FOUND_PAGE, "text/html")

    async def _record_stream(self, chunks: AsyncGenerator[bytes], record: Record) -> AsyncGenerator[bytes]:
        """Yield the chunks of a reply; the request ends with them."""
        try:
            async with aclosing(chunks):
                yield b""  # only a started generator runs its `finally` in `aclose`
                async for chunk in chunks:
                    record.response_bytes += len(chunk)
                    yield chunk
        except BaseException as error:
            self._observers.fail_request(record, error)
            raise
        finally:
            self._observers.end_request(record)

    def _with_cors(self, reply: Reply) -> Reply:
        """Add CORS headers where they are enabled."""
        if not self._options.cors:
            return reply
        return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *CORS_HEADERS))


def error_reply(error: StatusError) -> Reply:
    status = HTTP_STATUSES[error.code]
    if isinstance(error, TooLarge):  # not 429: a retry would be as large
        status = 413
    elif isinstance(error, Misdirected):
        status = 421
    headers = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
    return Reply(status, encode_json(error_json(error.message)), headers=headers)


def _options(request: Request) -> Reply:
    """Reply to a CORS preflight, or list the methods of the server."""
    if request.target == "*":
        return Reply(200, headers=(("Allow", "GET, POST, OPTIONS"),))
    return Reply(200 if request.headers.get(b"origin", b"").startswith((b"http://", b"https://")) else 400)


def _is_model_request(request: Request) -> bool:
    """Return whether the limits apply to a request: not to health, metrics and the status page."""
    return request.target.lower().startswith("/v1/")


def _authorization(request: Request) -> str | None:
    value = request.headers.get(b"authorization")
    return value.decode("utf-8", "surrogateescape") if value else None


def _json(text: str) -> Reply:
    return Reply(200, encode_json(text))
