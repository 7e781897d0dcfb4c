"""The client for asyncio: the methods of `serving.client.Client` as coroutines.

async with AsyncClient("localhost:8500") as client:
    answers = await asyncio.gather(*(client.predict("translation", {"text": [text]}) for text in texts))
    async for piece in client.stream("text_generation", {"prompt": ["The "], ...}, steps=10):
        print(piece["text"][0].decode(), end="")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import numpy as np

from serving.client.calls import Deliver, Open, Read, Send, Sleep, Steps, T
from serving.client.connect import connect
from serving.client.errors import ServingError
from serving.client.types import RETRIES, TIMEOUT, Classification, Metadata, ModelSpec, Tensors, Tls, VersionStatus
from serving.protocol import DEFAULT_SIGNATURE


class AsyncClient:
    """Sends requests to one server from one event loop; arguments and exceptions are those of `Client`.

    Cancelling a coroutine cancels its request.
    """

    def __init__(
        self, address: str, *, token: str | None = None, tls: Tls | None = None, retries: int = RETRIES
    ) -> None:
        self.address = address
        self._calls, self._transport = connect(address, token, tls, retries, asynchronous=True)

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Tensors:
        """Like Client.predict."""
        return (await self._run(self._calls.predict(ModelSpec(model, version, label), inputs, signature, timeout)))[0]

    async def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str = DEFAULT_SIGNATURE,
        context: Mapping[str, Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> list[list[Classification]]:
        """Like Client.classify."""
        spec = ModelSpec(model, version, label)
        return await self._run(self._calls.classify(spec, examples, signature, context, timeout))

    async def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str = DEFAULT_SIGNATURE,
        context: Mapping[str, Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> np.ndarray:
        """Like Client.regress."""
        spec = ModelSpec(model, version, label)
        return await self._run(self._calls.regress(spec, examples, signature, context, timeout))

    def stream(
        self,
        model: str,
        inputs: Mapping[str, Any],
        steps: int,
        signature: str = "stream",
        version: int | None = None,
        label: str | None = None,
        timeout: float = TIMEOUT,
    ) -> AsyncGenerator[Tensors, None]:
        """Like Client.stream; use contextlib.aclosing to close it immediately if the loop ends early."""
        return self._iterate(self._calls.stream(ModelSpec(model, version, label), inputs, steps, signature, timeout))

    async def metadata(
        self, model: str, version: int | None = None, label: str | None = None, timeout: float = TIMEOUT
    ) -> Metadata:
        """Like Client.metadata."""
        return await self._run(self._calls.metadata(ModelSpec(model, version, label), timeout))

    async def status(self, model: str, timeout: float = TIMEOUT) -> list[VersionStatus]:
        """Like Client.status."""
        return await self._run(self._calls.status(ModelSpec(model), timeout))

    async def models(self, timeout: float = TIMEOUT) -> dict[str, dict[int, str]]:
        """Like Client.models."""
        return await self._run(self._calls.models(timeout))

    async def ready(self, timeout: float = TIMEOUT) -> bool:
        """Like Client.ready."""
        return await self._run(self._calls.ready(timeout))

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
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
                reply = await self._execute(step)
            except ServingError as error:
                failed = error

    async def _iterate(self, steps: Steps[None]) -> AsyncGenerator[Tensors, None]:
        """Execute the steps and yield the outputs that they deliver."""
        reply: Any = None
        failed: ServingError | None = None
        async with AsyncExitStack() as opened:
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
                    reply = await self._execute(step)
                except ServingError as error:
                    failed = error
                if isinstance(step, Open) and reply is not None:
                    opened.push_async_callback(reply.close)

    async def _execute(self, step: Any) -> Any:
        """Execute one step and return its reply."""
        match step:
            case Send():
                return await self._transport.send(step.request, step.seconds)
            case Open():
                return await self._transport.open(step.request, step.seconds)
            case Read():
                return await step.body.read(step.seconds)
            case Sleep():
                return await asyncio.sleep(step.seconds)
        raise AssertionError(f"{step} is not a step")
