"""What the client raises: an exception class for each canonical status code, with the server's text."""

from __future__ import annotations


class ServingError(Exception):
    """A request failed. `code` is a canonical status name ("NOT_FOUND"), `message` the server's text.

    REST tells HTTP's numbers alone: FAILED_PRECONDITION and OUT_OF_RANGE come as INVALID_ARGUMENT there, ALREADY_EXISTS
    as ABORTED, UNKNOWN and DATA_LOSS as INTERNAL.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Cancelled(ServingError):
    """Somebody ended the request before it was done."""


class Unknown(ServingError):
    """Something that has no code of its own, such as an answer that is not a model server's."""


class InvalidArgument(ServingError):
    """The request is wrong, whatever the state of the server."""


class DeadlineExceeded(ServingError):
    """The timeout passed before the answer came."""


class NotFound(ServingError):
    """No such model, or no such version that is loaded."""


class AlreadyExists(ServingError):
    """What was to be made is there."""


class PermissionDenied(ServingError):
    """The server knows who asks, and does not allow it."""


class ResourceExhausted(ServingError):
    """A limit of the server: the size of a request, or how many it takes at once."""


class FailedPrecondition(ServingError):
    """The request does not fit the state of the model, such as a signature that it has not."""


class Aborted(ServingError):
    """Another request came between."""


class OutOfRange(ServingError):
    """A value past the end of what there is."""


class Unimplemented(ServingError):
    """The server, or the protocol in use, has no such method."""


class Internal(ServingError):
    """A fault of the server."""


class Unavailable(ServingError):
    """No server answers, or it cannot take the request now; the client has tried again in vain."""


class DataLoss(ServingError):
    """Data are damaged beyond repair."""


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
    """The exception for a code."""
    return ERRORS.get(code, ServingError)(code, message)


def invalid(message: str) -> ServingError:
    return failure("INVALID_ARGUMENT", message)


def late(address: str, seconds: float) -> ServingError:
    return failure("DEADLINE_EXCEEDED", f"no answer within {round(seconds, 2):g} s from {address}")


def unavailable(address: str, reason: str) -> ServingError:
    """What to tell when no server answers."""
    return failure(
        "UNAVAILABLE",
        f"no model server answers at {address} ({reason}); start one with `python -m serving "
        "--models_dir=models --port=8500 --rest_api_port=8501`, or check the address",
    )
