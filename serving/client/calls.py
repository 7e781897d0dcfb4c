"""The client's methods as steps, without I/O.

Each method is a generator: it yields a step (`Send`, `Sleep`, ...), receives the reply or the exception, and returns
the result. `Client` and `AsyncClient` execute the steps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from serving.client.errors import (
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    deadline_exceeded,
    failure,
    invalid_argument,
)
from serving.client.types import Classification, Metadata, ModelSpec, Tensors, VersionStatus
from serving.client.values import Features, batch_size, convert_numbers, features, typed_array, zeros

METADATA_SECONDS = 5.0  # lifetime of cached metadata, which a new version of the model can change
INITIAL_BACKOFF, MAX_BACKOFF = 0.1, 5.0  # seconds; each wait is twice the previous one
STATE = "state"  # the output that a stream feeds back as an input


@dataclass(frozen=True)
class Send:
    """Send the request and reply with the response, within `seconds`."""

    request: Any
    seconds: float


@dataclass(frozen=True)
class Open:
    """Send the request and reply with the open body of its response, for `Read`."""

    request: Any
    seconds: float


@dataclass(frozen=True)
class Read:
    """Reply with the next bytes of a body, b"" at its end."""

    body: Any
    seconds: float


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Deliver:
    """Yield the outputs to the user of a stream."""

    outputs: Tensors


T = TypeVar("T")
Steps = Generator[Any, Any, T]


# The request, and the function that parses its response.
RequestWithParser = tuple[Any, Callable[[Any], Any]]


class StreamParser(Protocol):
    """Parser of the response of a stream."""

    def feed(self, chunk: bytes, outputs: Mapping[str, Any]) -> Iterator[Tensors | None]:
        """Yield the outputs that `chunk` completes, None at the end of the stream."""
        ...


class Format(Protocol):
    """How to write requests and parse responses: pure functions, for gRPC and for REST."""

    address: str
    describes_outputs: bool  # whether a response contains the names and dtypes of its outputs

    def predict(self, spec: ModelSpec, signature: str, inputs: Tensors) -> Any: ...

    def read_predict(self, response: Any, outputs: Mapping[str, Any]) -> Tensors | None:
        """Return None if the outputs of the response are not the `outputs` of the metadata."""
        ...

    def read_version(self, response: Any) -> int | None: ...

    def classify(
        self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None
    ) -> RequestWithParser: ...

    def regress(
        self, spec: ModelSpec, signature: str, examples: list[Features], context: Features | None
    ) -> RequestWithParser: ...

    def metadata(self, spec: ModelSpec) -> RequestWithParser: ...

    def status(self, spec: ModelSpec) -> RequestWithParser: ...

    def models(self) -> RequestWithParser: ...

    def ready(self) -> RequestWithParser: ...

    def stream(self, spec: ModelSpec, signature: str, inputs: Tensors, steps: int) -> tuple[Any, StreamParser] | None:
        """Return the request and the parser of its response; None if the protocol has no streams."""
        ...


class Deadline:
    """The deadline of a request, including retries and waits."""

    def __init__(self, address: str, seconds: float) -> None:
        self._address, self._seconds = address, seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds until the deadline.

        Raises: DeadlineExceeded.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise deadline_exceeded(self._address, self._seconds)
        return left


class Calls:
    """The steps of all methods; `retries` is how often a request is repeated while the server is unavailable."""

    def __init__(self, format: Format, retries: int) -> None:
        self._format, self._retries = format, retries
        self._metadata: dict[ModelSpec, tuple[float, Metadata]] = {}  # with the time of the request

    def predict(
        self, spec: ModelSpec, inputs: Mapping[str, Any], signature: str, timeout: float
    ) -> Steps[tuple[Tensors, int | None]]:
        """Return the outputs, and the version that computed them if the response contains it."""
        deadline = Deadline(self._format.address, timeout)
        try:
            arrays = yield from self._arrays(spec, signature, inputs, deadline)
            response = yield from self._send(self._format.predict(spec, signature, arrays), deadline)
            outputs = yield from self._outputs(spec, signature, response, deadline)
            return outputs, self._format.read_version(response)
        except ServingError:
            self._metadata.pop(spec, None)  # it may describe a version that has been replaced
            raise

    def classify(
        self,
        spec: ModelSpec,
        examples: Sequence[Mapping[str, Any]],
        signature: str,
        context: Mapping[str, Any] | None,
        timeout: float,
    ) -> Steps[list[list[Classification]]]:
        shared = None if context is None else features(context)
        call = self._format.classify(spec, signature, list(map(features, examples)), shared)
        return (yield from self._call(call, Deadline(self._format.address, timeout)))

    def regress(
        self,
        spec: ModelSpec,
        examples: Sequence[Mapping[str, Any]],
        signature: str,
        context: Mapping[str, Any] | None,
        timeout: float,
    ) -> Steps[Any]:
        shared = None if context is None else features(context)
        call = self._format.regress(spec, signature, list(map(features, examples)), shared)
        return (yield from self._call(call, Deadline(self._format.address, timeout)))

    def metadata(self, spec: ModelSpec, timeout: float) -> Steps[Metadata]:
        return (yield from self._call(self._format.metadata(spec), Deadline(self._format.address, timeout)))

    def status(self, spec: ModelSpec, timeout: float) -> Steps[list[VersionStatus]]:
        return (yield from self._call(self._format.status(spec), Deadline(self._format.address, timeout)))

    def models(self, timeout: float) -> Steps[dict[str, dict[int, str]]]:
        return (yield from self._call(self._format.models(), Deadline(self._format.address, timeout)))

    def ready(self, timeout: float) -> Steps[bool]:
        request, read = self._format.ready()
        try:
            return self._parse(read, (yield Send(request, timeout)))
        except Unavailable:
            return False

    def stream(
        self, spec: ModelSpec, inputs: Mapping[str, Any], steps: int, signature: str, timeout: float
    ) -> Steps[None]:
        """Deliver the outputs of each call of a signature that continues from its own `state`."""
        if steps < 1:
            raise invalid_argument(f"steps is {steps}; it must be 1 or more")
        deadline = Deadline(self._format.address, timeout)
        description = (yield from self._cached_metadata(spec, deadline, fresh=True)).get(signature)
        if description is None:  # the server's error lists the signatures
            yield from self.predict(spec, inputs, signature, timeout)
            raise failure("FAILED_PRECONDITION", f"'{spec.name}' has no signature '{signature}'")
        if STATE not in description["inputs"] or STATE not in description["outputs"]:
            raise invalid_argument(
                f"signature '{signature}' of '{spec.name}' has no '{STATE}' input and output, which a stream needs"
            )
        arrays = yield from self._arrays(spec, signature, inputs, deadline)
        stream = self._format.stream(spec, signature, arrays, steps)
        if stream is not None and batch_size(arrays) == 1:  # the limit of servers with server-sent events
            request, parser = stream
            output_specs = {name: tensor for name, tensor in description["outputs"].items() if name != STATE}
            try:
                body = yield from self._with_retries(lambda seconds: Open(request, seconds), deadline)
            except (InvalidArgument, NotFound) as error:
                if not error.message.startswith("Malformed request"):  # the error of a server without streams
                    raise
            else:
                yield from self._read_stream(body, parser, output_specs, timeout)
                return
        state = zeros(description["inputs"][STATE], batch_size(arrays))
        for _ in range(steps):
            outputs, version = yield from self.predict(spec, arrays | {STATE: state}, signature, timeout)
            if version is not None:
                spec = ModelSpec(spec.name, version)  # only the version that returned a state can use it
            state = outputs.pop(STATE)
            yield Deliver(outputs)

    def _read_stream(
        self, body: Any, parser: StreamParser, output_specs: Mapping[str, Any], timeout: float
    ) -> Steps[None]:
        """Deliver the outputs of the events of a body; each event may take `timeout` seconds."""
        deadline = Deadline(self._format.address, timeout)
        while chunk := (yield Read(body, deadline.left())):
            for outputs in parser.feed(chunk, output_specs):
                if outputs is None:
                    return
                yield Deliver(outputs)
                deadline = Deadline(self._format.address, timeout)
        raise failure("UNAVAILABLE", f"{self._format.address} ended the stream before it was done")

    def _call(self, call: RequestWithParser, deadline: Deadline) -> Steps[Any]:
        request, read = call
        response = yield from self._send(request, deadline)
        return self._parse(read, response)

    def _parse(self, read: Callable[..., T], *response: Any) -> T:
        """Parse a response.

        Raises: Unknown if it does not come from a model server.
        """
        try:
            return read(*response)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            text = f"the response of {self._format.address} is not a model server's ({type(error).__name__}: {error})"
            raise failure("UNKNOWN", text) from None

    def _send(self, request: Any, deadline: Deadline) -> Steps[Any]:
        return (yield from self._with_retries(lambda seconds: Send(request, seconds), deadline))

    def _with_retries(self, step: Callable[[float], Send | Open], deadline: Deadline) -> Steps[Any]:
        """Yield the step; repeat it after a wait while the server is unavailable and the deadline allows it."""
        backoff = INITIAL_BACKOFF
        for tries_left in range(self._retries, -1, -1):
            try:
                return (yield step(deadline.left()))
            except Unavailable:
                wait = backoff * random.uniform(0.5, 1.0)  # so that clients that failed together do not retry together
                if tries_left == 0 or wait >= deadline.left():
                    raise
            yield Sleep(wait)
            backoff = min(2 * backoff, MAX_BACKOFF)
        raise AssertionError("a try returns or raises")

    def _cached_metadata(self, spec: ModelSpec, deadline: Deadline, fresh: bool = False) -> Steps[Metadata]:
        """Return the metadata of `spec`, cached for METADATA_SECONDS or until a failure; `fresh` skips the cache."""
        cached = self._metadata.get(spec)
        if fresh or cached is None or time.monotonic() - cached[0] > METADATA_SECONDS:
            cached = (time.monotonic(), (yield from self._call(self._format.metadata(spec), deadline)))
            self._metadata[spec] = cached
        return cached[1]

    def _arrays(self, spec: ModelSpec, signature: str, inputs: Mapping[str, Any], deadline: Deadline) -> Steps[Tensors]:
        arrays = {}
        for name, value in inputs.items():
            array = typed_array(name, value)
            if array is None:
                metadata = yield from self._cached_metadata(spec, deadline)
                dtype = metadata.get(signature, {}).get("inputs", {}).get(name, {}).get("dtype")
                array = convert_numbers(name, value, dtype, signature)
            arrays[name] = array
        return arrays

    def _outputs(self, spec: ModelSpec, signature: str, response: Any, deadline: Deadline) -> Steps[Tensors]:
        for fresh in (False, True):  # the cache may describe a version that has been replaced
            metadata: Metadata = {}
            if not self._format.describes_outputs:
                metadata = yield from self._cached_metadata(spec, deadline, fresh)
            output_specs = metadata.get(signature, {}).get("outputs", {})
            outputs = self._parse(self._format.read_predict, response, output_specs)
            if outputs is not None:
                return outputs
        raise failure("INTERNAL", f"the outputs of the response differ from the metadata of '{spec.name}'")
