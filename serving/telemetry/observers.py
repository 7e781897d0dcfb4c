"""Record every request in metrics and access log, and convert exceptions to statuses; the same for gRPC and REST."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from serving.errors import StatusError
from serving.telemetry.access_log import AccessLog
from serving.telemetry.metrics import Metrics

log = logging.getLogger("serving")


@dataclass(slots=True)
class Record:
    """Attributes of a request. `model` is empty until the request has been parsed."""

    protocol: str  # "GRPC" or "REST"
    method: str
    peer: str
    request_bytes: int
    model: str = ""
    version: int | None = None
    signature: str = ""
    code: str = "OK"
    response_bytes: int = 0
    start: float = field(default_factory=time.perf_counter)


class Observers:
    """Records requests in metrics and access log."""

    def __init__(self, metrics: Metrics, access_log: AccessLog | None = None) -> None:
        self.metrics, self._access_log = metrics, access_log

    def start_request(self, record: Record, method: str, spec: Any) -> None:
        """Record that a request calls `method` on the model of a ModelSpec."""
        record.method, record.model, record.signature = method, spec.name, spec.signature_name
        self.metrics.request_started(record.model)

    def fail_request(self, record: Record, error: BaseException) -> StatusError:
        """Record that a request raised `error`; return the status for its client."""
        status = status_of(error)
        record.code = status.code
        return status

    def end_request(self, record: Record) -> None:
        """Record that a request has ended, with any outcome."""
        seconds = time.perf_counter() - record.start
        if record.model:
            self.metrics.request_finished(record.model)
            self.metrics.record_request(record.model, record.method, record.protocol, record.code, 1e6 * seconds)
        if self._access_log is not None:
            self._access_log.write(record, 1e3 * seconds)


def status_of(error: BaseException) -> StatusError:
    """Return the status for an exception. Log errors of this server, which must not look like errors of the client."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, TimeoutError):
        return StatusError("DEADLINE_EXCEEDED", "Timed out waiting for notification")
    if not isinstance(error, Exception):  # the client has disconnected, or the server is stopping
        return StatusError("CANCELLED", "The request was cancelled before it was completed.")
    log.error("A request failed", exc_info=error)
    return StatusError("INTERNAL", f"{type(error).__name__}: {error}")
