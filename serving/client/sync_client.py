"""The synchronous client: each method blocks until the response arrives."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from serving.client.calls import Deliver, Open, Read, Send, Sleep, Steps, T
from serving.client.connect import connect
from serving.client.errors import ServingError
from serving.client.types import (
    RETRIES,
    TIMEOUT,
    Classification,
    Metadata,
    ModelSpec,
    Tensors,
    Tls,
    VersionStatus,
)
from serving.protocol import DEFAULT_SIGNATURE


class Client:
    """Sends requests to one server; threads may share it.

    `address` is `HOST:PORT` or `unix:PATH` for gRPC, `grpcs://HOST:PORT` for gRPC over TLS, `http://HOST:PORT` or
    `https://HOST:PORT` for REST. Both return equal arrays; string tensors are object arrays of `bytes`.
    `token` is sent as `Authorization: Bearer`; `tls` names files for grpcs and https.
    If the server is unavailable, the client retries a request up to `retries` times with exponential backoff from
    0.1 s; the `timeout` in seconds covers all tries. So a request may reach a model twice.

    Methods raise a subclass of ServingError for each code, such as NotFound or DeadlineExceeded.
    """

    def __init__(
        self, address: str, *, token: str | None = None, tls: Tls | None = None, retries: int = RETRIES
    ) -> None:
        self.address = address
        self._calls, self._transport = connect(address, token, tls, retries, asynchronous=False)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Tensors:
        """Run `signature` of `model` on `inputs` {name: anything that numpy.asarray takes} -> {name: array}.

        Arrays keep their dtype; Python numbers are converted to the dtype of the signature. REST cannot represent
        float16 and bfloat16. Over gRPC, bfloat16 outputs become float32.
        """
        return self._run(self._calls.predict(ModelSpec(model, version, label), inputs, signature, timeout))[0]

    def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str = DEFAULT_SIGNATURE,
        context: Mapping[str, Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> list[list[Classification]]:
        """Classify examples {feature: a number, str, bytes, or a list of one of these} -> the classes of each.

        Integers become int64 features, floats float features, str and bytes become bytes features; `context` holds
        features that all examples share.
        """
        spec = ModelSpec(model, version, label)
        return self._run(self._calls.classify(spec, examples, signature, context, timeout))

    def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str = DEFAULT_SIGNATURE,
        context: Mapping[str, Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> np.ndarray:
        """Like `classify` -> a number for each example, float32 [examples]."""
        spec = ModelSpec(model, version, label)
        return self._run(self._calls.regress(spec, examples, signature, context, timeout))

    def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        steps: int,
        signature: str = "stream",
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Generator[Tensors, None, None]:
        """Yield the outputs of `steps` calls of a signature; each call continues from the `state` of the previous one.

        `inputs` and the outputs do not contain `state`. Each call may take `timeout` seconds. Closing the iterator, or
        leaving the loop over it, cancels the request. Over REST, one request covers all calls if the inputs have one
        row and the server supports server-sent events; otherwise, and over gRPC, each call is a separate request.
        """
        return self._iterate(self._calls.stream(ModelSpec(model, version, label), inputs, steps, signature, timeout))

    def metadata(
        self, model: str, version: int | None = None, label: str | None = None, timeout: float = TIMEOUT
    ) -> Metadata:
        """Return the signatures: {signature: {"inputs": {name: {"dtype", "shape"}}, "outputs": {...}}}."""
        return self._run(self._calls.metadata(ModelSpec(model, version, label), timeout))

    def status(self, model: str, timeout: float = TIMEOUT) -> list[VersionStatus]:
        """Return the status of all versions that the server knows, highest first."""
        return self._run(self._calls.status(ModelSpec(model), timeout))

    def models(self, timeout: float = TIMEOUT) -> dict[str, dict[int, str]]:
        """Return {model: {version: state}}; needs REST and a server with `--rest_api_extensions`.

        Raises: Unimplemented over gRPC, InvalidArgument from a server without the extension.
        """
        return self._run(self._calls.models(timeout))

    def ready(self, timeout: float = TIMEOUT) -> bool:
        """Return whether the server accepts requests now, without retries; False if it does not answer.

        Raises: Unimplemented from a server without readiness check (no health service, no /readyz).
        """
        return self._run(self._calls.ready(timeout))

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        """Execute the steps and return their result."""
        reply: Any = None
        failed: ServingError | None = None
        while True:
            try:
                step = steps.send(reply) if failed is None else steps.throw(failed)
            except StopIteration as end:
                return end.value
            reply, failed = None, None
            try:
                reply = self._execute(step)
            except ServingError as error:
                failed = error

    def _iterate(self, steps: Steps[None]) -> Generator[Tensors, None, None]:
        """Execute the steps and yield the outputs that they deliver."""
        reply: Any = None
        failed: ServingError | None = None
        with ExitStack() as opened:
            while True:
                try:
                    step = steps.send(reply) if failed is None else steps.throw(failed)
                except StopIteration:
                    return
                reply, failed = None, None
                if isinstance(step, Deliver):
                    yield step.outputs
                    continue
                try:
                    reply = self._execute(step)
                except ServingError as error:
                    failed = error
                if isinstance(step, Open) and reply is not None:
                    opened.callback(reply.close)

    def _execute(self, step: Any) -> Any:
        """Execute one step and return its reply."""
        match step:
            case Send():
                return self._transport.send(step.request, step.seconds)
            case Open():
                return self._transport.open(step.request, step.seconds)
            case Read():
                return step.body.read(step.seconds)
            case Sleep():
                return time.sleep(step.seconds)
        raise AssertionError(f"{step} is not a step")
