"""What is told of every request: metrics and access log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.telemetry.access_log import AccessLog
from serving.telemetry.metrics import Metrics


@dataclass(slots=True)
class Record:
    """What is known of a request. `model` is empty as long as it has not been read."""

    protocol: str  # "GRPC" or "REST"
    method: str
    peer: str
    request_bytes: int
    model: str = ""
    version: int | None = None
    signature: str = ""
    code: str = "OK"
    response_bytes: int = 0


class Observers:
    """Tells metrics and access log of requests."""

    def __init__(self, metrics: Metrics, access_log: AccessLog | None = None) -> None:
        self.metrics, self._access_log = metrics, access_log

    def asks(self, record: Record, method: str, spec: Any) -> None:
        """A request asks `method` of the model of a ModelSpec."""
        record.method, record.model, record.signature = method, spec.name, spec.signature_name
        self.metrics.started(record.model)

    def ended(self, record: Record, seconds: float) -> None:
        """A request has been answered."""
        if record.model:
            self.metrics.finished(record.model)
            self.metrics.request(record.model, record.method, record.protocol, record.code, 1e6 * seconds)
        if self._access_log is not None:
            self._access_log.write(record, 1e3 * seconds)
