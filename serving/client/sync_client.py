"""The client without asyncio: it waits for each answer."""

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
    """Requests to one server; may be shared by threads.

    `address` is `HOST:PORT` or `unix:PATH` for gRPC, `grpcs://HOST:PORT` for gRPC over TLS, `http://HOST:PORT` or
    `https://HOST:PORT` for REST. Both give equal arrays; string tensors are object arrays of `bytes`.
    `token` is sent as `Authorization: Bearer`; `tls` names files for grpcs and https.
    A request is sent again up to `retries` times, after waits that grow from 0.1 s, where the server is unavailable;
    its `timeout` in seconds covers all of that. So a model has to bear that a request reaches it twice.

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

        Arrays are sent with their dtype; Python numbers get the dtype that the signature asks for. REST has no form
        for float16 and bfloat16. Over gRPC bfloat16 outputs come as float32.
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

        Whole numbers become int64 features, others float, str and bytes text; `context` has features that all
        examples share.
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
        """As `classify` -> a number for each example, float32 [examples]."""
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
        """The outputs of `steps` calls of a signature, each of which goes on from the `state` of the one before.

        `inputs` and outputs are without `state`. Each call may take `timeout` seconds. Closing the iterator, or
        leaving the loop over it, ends the request. Over REST it is one request, of one row, where the server has
        server-sent events; else, and over gRPC, each call is a request of its own.
        """
        return self._iterate(self._calls.stream(ModelSpec(model, version, label), inputs, steps, signature, timeout))

    def metadata(
        self, model: str, version: int | None = None, label: str | None = None, timeout: float = TIMEOUT
    ) -> Metadata:
        """Signatures of the model: {signature: {"inputs": {name: {"dtype", "shape"}}, "outputs": {...}}}."""
        return self._run(self._calls.metadata(ModelSpec(model, version, label), timeout))

    def status(self, model: str, timeout: float = TIMEOUT) -> list[VersionStatus]:
        """All versions that the server knows of, highest first."""
        return self._run(self._calls.status(ModelSpec(model), timeout))

    def models(self, timeout: float = TIMEOUT) -> dict[str, dict[int, str]]:
        """What the server has, {model: {version: state}}; over REST, from `python -m serving --rest_api_extensions`.

        Raises: Unimplemented over gRPC, InvalidArgument from a server without the extension.
        """
        return self._run(self._calls.models(timeout))

    def ready(self, timeout: float = TIMEOUT) -> bool:
        """Whether the server takes requests now; asked once. A server that does not answer is not ready.

        Raises: Unimplemented from a server that does not tell (no health service, no /readyz).
        """
        return self._run(self._calls.ready(timeout))

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        """Carries the steps out -> what they return."""
        reply: Any = None
        failed: ServingError | None = None
        while True:
            try:
                step = steps.send(reply) if failed is None else steps.throw(failed)
            except StopIteration as end:
                return end.value
            reply, failed = None, None
            try:
                reply = self._do(step)
            except ServingError as error:
                failed = error

    def _iterate(self, steps: Steps[None]) -> Generator[Tensors, None, None]:
        """Carries the steps out, and yields what they deliver."""
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
                    reply = self._do(step)
                except ServingError as error:
                    failed = error
                if isinstance(step, Open) and reply is not None:
                    opened.callback(reply.close)

    def _do(self, step: Any) -> Any:
        """-> the reply."""
        match step:
            case Send():
                return self._transport.send(step.request, step.seconds)
            case Open():
                return self._transport.open(step.request, step.seconds)
            case Read():
                return step.body.read(step.seconds)
            case Sleep():
                return time.sleep(step.seconds)
        raise AssertionError(f"{step} is no step")
