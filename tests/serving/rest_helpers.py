"""A RestApi with a fake model manager, runner and access log."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from serving.api.admission import AdmissionControl
from serving.api.predict import Settings
from serving.engine.servable import Signature
from serving.rest.api import RestApi, RestOptions
from serving.rest.http.messages import Reply, Request
from serving.telemetry.metrics import Metrics
from serving.telemetry.observers import Observers


def signature_of(name: str, inputs: dict[str, int], outputs: dict[str, int]) -> Signature:
    """Make a signature with tensors of rank 1; {alias: DataType}."""
    definition = meta_graph_pb2.SignatureDef()
    for infos, types in ((definition.inputs, inputs), (definition.outputs, outputs)):
        for alias, data_type in types.items():
            infos[alias].name, infos[alias].dtype = f"{alias}:0", data_type
            infos[alias].tensor_shape.dim.add(size=-1)
    return Signature(name, definition)


class FakeAccessLog:
    """Collects the requests that have ended: (method, code, bytes of the response)."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, int]] = []

    def write(self, record, milliseconds) -> None:
        self.ended.append((record.method, record.code, record.response_bytes))


class FakeBackend:
    """Replaces the manager, with one model `m`, and the runner: `compute(feeds)` returns the outputs of a run."""

    def __init__(self, signature: Signature, compute: Callable[[dict[str, np.ndarray]], list[np.ndarray]]) -> None:
        self.version = SimpleNamespace(
            model="m", number=3, servable=SimpleNamespace(signatures={signature.name: signature})
        )
        self.compute, self.in_use = compute, 0

    @contextmanager
    def use(self, *choice) -> Iterator[SimpleNamespace]:
        self.in_use += 1
        try:
            yield self.version
        finally:
            self.in_use -= 1

    def ready(self) -> bool:
        return True

    def models(self) -> list[str]:
        return ["m"]

    def versions(self, name: str) -> list[tuple[int, str, None]]:
        return [(3, "AVAILABLE", None)]

    async def run(self, hold, version, api, call, limit) -> list[np.ndarray]:
        return self.compute(call.feeds)

    async def execute(self, use, api, prepare, *limits) -> str:
        with use as version:
            call = prepare(version)
            return call.finish(self.compute(call.feeds))

    def submit(self, function, *arguments):
        return asyncio.to_thread(function, *arguments)


def api_of(
    backend: FakeBackend,
    tokens: tuple[str, ...] = (),
    cors: bool = False,
    max_requests: int = 0,
    hosts: frozenset[str] | None = None,
    max_values: int = sys.maxsize,
) -> tuple[RestApi, FakeAccessLog]:
    log = FakeAccessLog()
    options = RestOptions(
        hosts=hosts,
        extensions=True,
        cors=cors,
        metrics_path="/metrics",
        max_bytes=10_000_000,
        max_values=max_values,
    )
    admission = AdmissionControl(tokens, max_requests)
    return RestApi(backend, backend, admission, Observers(Metrics(), log), Settings(), options), log


def request(method: str, target: str, body: object = b"", **headers: str) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    encoded = {k.encode(): v.encode() for k, v in ({"host": "localhost"} | headers).items()}
    return Request(method, target, encoded, data, "peer", "1.1", secured=False)


async def chunks_of(reply: Reply) -> list[bytes]:
    assert not isinstance(reply.body, bytes), reply.body
    return [chunk async for chunk in reply.body]


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
