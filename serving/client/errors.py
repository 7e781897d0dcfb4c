"""Exceptions of the client: one class for each canonical status code, with the server's text."""

from __future__ import annotations


class ServingError(Exception):
    """A request failed. `code` is a canonical status name ("NOT_FOUND"), `message` the server's text.

    REST returns only HTTP statuses, so FAILED_PRECONDITION and OUT_OF_RANGE become INVALID_ARGUMENT, ALREADY_EXISTS
    becomes ABORTED, UNKNOWN and DATA_LOSS become INTERNAL.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Cancelled(ServingError):
    """The request was cancelled before it completed."""


class Unknown(ServingError):
    """An error without a code of its own, such as a response that does not come from a model server."""


class InvalidArgument(ServingError):
    """The request is invalid, whatever the state of the server."""


class DeadlineExceeded(ServingError):
    """The timeout passed before the response arrived."""


class NotFound(ServingError):
    """The server has no such model, or has not loaded that version."""


class AlreadyExists(ServingError):
    """The entity to create already exists."""


class PermissionDenied(ServingError):
    """The server knows the client and does not allow the request."""


class ResourceExhausted(ServingError):
    """A limit of the server is exceeded: the size of a request, or the number of concurrent requests."""


class FailedPrecondition(ServingError):
    """The state of the model does not permit the request, for example if it lacks the signature."""


class Aborted(ServingError):
    """The request conflicts with another one."""


class OutOfRange(ServingError):
    """A value is past the end of the valid range."""


class Unimplemented(ServingError):
    """The server or the protocol in use does not have the method."""


class Internal(ServingError):
    """The server failed internally."""


class Unavailable(ServingError):
    """No server answers, or it cannot accept the request now; all retries of the client have failed."""


class DataLoss(ServingError):
    """Data is lost or corrupted beyond repair."""


class Unauthenticated(ServingError):
    """The token is missing or wrong."""


ERRORS: dict[str, type[ServingError]] = {
    "CANCELLED": Cancelled,
    "UNKNOWN": Unknown,
    "INVALID_ARGUMENT": InvalidArgument,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Aborted,
    "OUT_OF_RANGE": OutOfRange,
    "UNIMPLEMENTED": Unimplemented,
    "INTERNAL": Internal,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": DataLoss,
    "UNAUTHENTICATED": Unauthenticated,
}


def failure(code: str, message: str) -> ServingError:
    """Return the exception for a code."""
    return ERRORS.get(code, ServingError)(code, message)


def invalid_argument(message: str) -> ServingError:
    return failure("INVALID_ARGUMENT", message)


def deadline_exceeded(address: str, seconds: float) -> ServingError:
    return failure("DEADLINE_EXCEEDED", f"no response within {round(seconds, 2):g} s from {address}")


def unavailable(address: str, reason: str) -> ServingError:
    """Return the exception for a server that does not answer."""
    return failure(
        "UNAVAILABLE",
        f"no model server answers at {address} ({reason}); start one with `python -m serving "
        "--models_dir=models --port=8500 --rest_api_port=8501`, or check the address",
    )
