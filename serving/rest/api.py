"""The REST face: URLs of TensorFlow Serving's HTTP API, and those of our own that flags switch on."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.api.admission import AdmissionControl, TooLarge
from serving.api.metadata import SIGNATURES, get_metadata, get_status, message_json, metadata_json
from serving.api.predict import Settings, choice
from serving.engine.runner import LARGE_BYTES, Runner
from serving.engine.servable import Call
from serving.errors import StatusError, invalid_argument
from serving.models.manager import ModelManager, Use, Version
from serving.models.storage import INT64_MAX
from serving.protocol import DEFAULT_SIGNATURE, HTTP_STATUSES
from serving.rest.examples import read_examples, rest_classify, rest_regress
from serving.rest.hosts import Misdirected, resolve
from serving.rest.json_text import error_json, parse
from serving.rest.messages import Reply, Request
from serving.rest.request import read_request, signature_name
from serving.rest.response import LARGE_JSON_RESULT, columnar_json, row_json
from serving.rest.stream import events
from serving.telemetry.observers import Observers, Record

log = logging.getLogger("serving")
LARGE_EXAMPLES_BYTES = 4096  # of JSON; to make messages of larger ones takes longer than a change of threads
HEALTH_TARGETS = ("/healthz", "/readyz")
# A small body must not grow without bound, and JSON takes up to some 50 times as much memory when it is read.
MAX_INFLATED_BYTES, MAX_INFLATION = 100 * 1024 * 1024, 32
ALWAYS_INFLATED_BYTES = 4 * 1024 * 1024

# Matched against path and query: a query is no part of the API and spoils the match.
CHOICE = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
VERB_URL = re.compile(rf"/v1/models/(?P<model>[^/:]+){CHOICE}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
MODEL_URL = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{CHOICE}(?:/(?P<part>metadata))?", re.IGNORECASE)
STREAM_URL = re.compile(rf"/v1/models/(?P<model>[^/:]+){CHOICE}:stream")

NOT_FOUND_PAGE = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
CORS_HEADERS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)


@dataclass(frozen=True)
class RestOptions:
    """What the flags say of REST. `metrics_path` "" = no metrics; `page` makes the status page."""

    timeout: float | None = 30.0  # seconds; None: no limit
    hosts: frozenset[str] | None = None  # that requests may be for; None: any
    cors: bool = False
    extensions: bool = False
    metrics_path: str = ""
    page: Callable[[], str] = lambda: ""


class RestApi:
    """Answers requests; knows HTTP's words but no sockets."""

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
        self.ready = True  # until the server drains

    async def answer(self, request: Request) -> Reply:
        """Never raises but for a cancellation."""
        record = Record("REST", request.method, request.peer, len(request.body))
        start = time.perf_counter()
        try:
            reply = await self._answer(request, record)
        except StatusError as error:
            record.code = error.code
            reply = failure(error)
        except TimeoutError:
            record.code = "DEADLINE_EXCEEDED"
            reply = failure(StatusError(record.code, "Timed out waiting for notification"))
        except asyncio.CancelledError:
            record.code = "CANCELLED"
            self._observers.ended(record, time.perf_counter() - start)
            raise
        except Exception as error:  # a fault of this server must not look like one of the client
            log.exception("request failed")
            record.code = "INTERNAL"
            reply = failure(StatusError(record.code, f"{type(error).__name__}: {error}"))
        if isinstance(reply.body, bytes):
            record.response_bytes = len(reply.body)
            self._observers.ended(record, time.perf_counter() - start)
        else:
            stream = self._observed(reply.body, record, start)
            await anext(stream)
            reply = Reply(reply.status, stream, reply.content_type, reply.headers)
        return self._for_pages(reply)

    async def _observed(self, chunks: AsyncGenerator[bytes], record: Record, start: float) -> AsyncGenerator[bytes]:
        """The chunks; the request ends with them."""
        try:
            async with aclosing(chunks):
                yield b""  # what has begun is ended by `aclose` too
                async for chunk in chunks:
                    record.response_bytes += len(chunk)
                    yield chunk
        except (GeneratorExit, asyncio.CancelledError):
            record.code = "CANCELLED"
            raise
        except Exception:
            record.code = "INTERNAL"
            raise
        finally:
            self._observers.ended(record, time.perf_counter() - start)

    def refuse(self, request: Request, size: int) -> Reply | None:
        """What to answer to a request without reading its body, of `size` bytes or more; None: the body may come."""
        try:
            request = resolve(request, self._options.hosts)
            if not self._is_open(request):
                self._admission.check_token(_authorization(request))
                if _is_of_models(request):
                    self._admission.check_room()
            if size > self._admission.most_bytes:
                raise self._admission.too_large(size)
        except StatusError as error:
            record = Record("REST", request.method, request.peer, size, code=error.code)
            reply = failure(error)
            record.response_bytes = len(cast(bytes, reply.body))
            self._observers.ended(record, 0.0)
            return self._for_pages(reply)
        return None

    def _for_pages(self, reply: Reply) -> Reply:
        """With what lets web pages of other origins read it, if they may."""
        if not self._options.cors:
            return reply
        return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *CORS_HEADERS))

    async def _answer(self, request: Request, record: Record) -> Reply:
        request = resolve(request, self._options.hosts)
        if request.method == "OPTIONS":
            if request.target == "*":  # of the server as a whole
                return Reply(200, headers=(("Allow", "GET, POST, OPTIONS"),))
            origin = request.headers.get(b"origin", b"")
            return Reply(200 if origin.startswith((b"http://", b"https://")) else 400)
        if self._is_open(request):
            return self._health(request.target)
        self._admission.check_token(_authorization(request))
        if not _is_of_models(request):
            return await self._page(request)
        with self._admission.admitted():
            async with asyncio.timeout(self._options.timeout):
                return await self._api(request, record)

    def _is_open(self, request: Request) -> bool:
        """Whether anybody may ask this: web pages whether they may call, others whether the server lives."""
        health = self._options.extensions and request.method == "GET" and request.target in HEALTH_TARGETS
        return health or request.method == "OPTIONS"

    def _health(self, target: str) -> Reply:
        well = target == "/healthz" or (self.ready and self._manager.ready())
        return Reply(200, b"ok\n", "text/plain") if well else Reply(503, b"not ready\n", "text/plain")

    async def _page(self, request: Request) -> Reply:
        """What is not below /v1/: for those who watch the server, so that it does not count as one of its requests."""
        if request.method == "GET" and request.target == self._options.metrics_path:
            # Names of directories need not be text.
            return Reply(200, self._observers.metrics.text().encode("utf-8", "replace"), "text/plain")
        if request.method == "GET" and request.target == "/" and self._options.extensions:
            return Reply(200, (await self._runner.work(self._options.page)).encode(), "text/html; charset=utf-8")
        return Reply(404, NOT_FOUND_PAGE, "text/html")

    async def _api(self, request: Request, record: Record) -> Reply:
        method, target = request.method, request.target
        if method == "POST" and (match := VERB_URL.fullmatch(target)):
            verb, spec = match["verb"], read_spec(match)
            if verb in ("predict", "classify", "regress"):  # exactly: the match ignores case, the choice does not
                self._observers.asks(record, verb.capitalize(), spec)
                return await self._run(verb, spec, await self._body(request), record)
        if method == "GET" and (match := MODEL_URL.fullmatch(target)):
            return self._describe(match, record)
        if self._options.extensions and method == "POST" and (match := STREAM_URL.fullmatch(target)):
            spec = read_spec(match)
            self._observers.asks(record, "stream", spec)
            body, seconds = await self._body(request), self._options.timeout
            stream = await events(self._runner, self._admission, self._use(spec), body, seconds, record)
            return Reply(200, stream, "text/event-stream")
        raise invalid_argument(f"Malformed request: {method} {target}")

    async def _body(self, request: Request) -> bytes | bytearray:
        if b"gzip" in request.headers.get(b"content-encoding", b""):
            body = await self._runner.work(_inflate, request.body, self._admission.most_bytes)
            if len(body) > self._admission.most_bytes:
                raise self._admission.too_large(len(body))
            if len(body) > max(ALWAYS_INFLATED_BYTES, MAX_INFLATION * len(request.body)):
                raise TooLarge(
                    "RESOURCE_EXHAUSTED",
                    f"The body of {len(request.body)} bytes unpacks to {len(body)}, which is more than "
                    f"{MAX_INFLATION} times as much: send it without Content-Encoding, or smaller parts.",
                )
            return body
        return request.body

    def _describe(self, match: re.Match[str], record: Record) -> Reply:
        if not match["model"]:
            if not self._options.extensions or any(match.groups()):
                raise invalid_argument("Missing model name in request.")
            return _json(json.dumps({"models": [self._listed(name) for name in self._manager.models()]}, indent=4))
        spec = read_spec(match)
        self._observers.asks(record, "GetModelMetadata" if match["part"] else "GetModelStatus", spec)
        if match["part"]:
            request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURES])
            return _json(metadata_json(get_metadata(self._manager, request)))
        return _json(
            message_json(get_status(self._manager, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))
        )

    def _listed(self, name: str) -> dict[str, Any]:
        versions = [{"version": str(number), "state": state} for number, state, _ in self._manager.versions(name)]
        return {"name": name, "versions": versions}

    async def _run(self, verb: str, spec: model_pb2.ModelSpec, body: bytes | bytearray, record: Record) -> Reply:
        document = await self._runner.work(parse, body) if len(body) > LARGE_BYTES else parse(body)
        record.signature = signature_name(document)

        # As in the original: examples are read before the model is looked up, the inputs of predict after it.
        examples = None
        if verb != "predict":
            large = len(body) > LARGE_EXAMPLES_BYTES
            examples = await self._runner.work(read_examples, document) if large else read_examples(document)

        def prepare(version: Version) -> Call:
            record.version = version.number
            if examples is None:
                return rest_predict(version.servable, document, record).then(encoded)
            read = rest_classify if verb == "classify" else rest_regress
            return read(record.signature, examples, version.servable, self._settings).then(encoded)

        answer = await self._runner.answer(
            self._use(spec), verb.capitalize(), prepare, len(body), self._options.timeout, LARGE_JSON_RESULT
        )
        return Reply(200, answer)

    def _use(self, spec: model_pb2.ModelSpec) -> Use:
        return self._manager.use(*choice(spec))


def rest_predict(servable: Any, document: dict[str, Any], record: Record) -> Call:
    """The run that answers a predict request; its response is JSON text."""
    name = record.signature or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    signature.check_inputs()
    fetches = signature.fetches(signature.all_outputs)
    request = read_request(document, signature)

    def finish(fetched: list[Any]) -> str:
        if not fetched:
            raise invalid_argument("Cannot convert empty tensor map to JSON")
        outputs = {
            alias: (signature.output_types[alias], array)
            for alias, array in zip(signature.all_outputs, fetched, strict=True)
        }
        return row_json(outputs) if request.row_form else columnar_json(outputs)

    return Call(signature.feeds(request.arrays), fetches, finish)


def read_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    """The model that a URL names."""
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
    status = HTTP_STATUSES[error.code]
    if isinstance(error, TooLarge):  # not 429: the same request later is as large
        status = 413
    elif isinstance(error, Misdirected):
        status = 421
    headers = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
    return Reply(status, encoded(error_json(error.message)), headers=headers)


def _is_of_models(request: Request) -> bool:
    """Whether it asks for what limits are there for, not for health, metrics or the status page."""
    return request.target.lower().startswith("/v1/")


def _authorization(request: Request) -> str | None:
    value = request.headers.get(b"authorization")
    return value.decode("utf-8", "surrogateescape") if value else None


def _json(text: str) -> Reply:
    return Reply(200, encoded(text))


def encoded(text: str) -> bytes:
    """A body as it travels; bytes of the request that are not UTF-8 go back as they came."""
    return text.encode("utf-8", "surrogateescape")


def _inflate(body: bytes | bytearray, most_bytes: int) -> bytes:
    """A gzip body; one byte more than `most_bytes` of one that is larger; nothing of what is none."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, min(MAX_INFLATED_BYTES, most_bytes + 1))
    except zlib.error:
        return b""
    return inflated if inflater.eof or len(inflated) > most_bytes else b""
