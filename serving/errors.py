"""Exceptions of the server: failures with a status code, and invalid command lines."""

MAX_MESSAGE_CHARACTERS = 16 * 1024  # messages quote requests, which may be large


class StatusError(Exception):
    """A request or the start failed with `code`, a canonical name such as "NOT_FOUND". Long messages are truncated."""

    def __init__(self, code: str, message: str) -> None:
        if len(message) > MAX_MESSAGE_CHARACTERS:
            message = message[:MAX_MESSAGE_CHARACTERS] + "..."
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


def invalid_argument(message: str) -> StatusError:
    return StatusError("INVALID_ARGUMENT", message)


class UsageError(Exception):
    """The command line is invalid. The message is one sentence for the user; the exit status is 2."""
