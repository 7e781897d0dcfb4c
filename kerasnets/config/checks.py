"""Checks of what is asked for, and their one-sentence error."""

from collections.abc import Iterable


class RequestError(ValueError):
    """What was asked for cannot be done: one sentence with what was given, what is allowed and what to do."""


def check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; it must be {allowed}.")


def check_counts(config: object, prefix: str, *names: str) -> None:
    for name in names:
        check(getattr(config, name) >= 1, prefix + name, getattr(config, name), "1 or more")


def check_share(name: str, value: float) -> None:
    check(0 <= value < 1, name, value, "in [0, 1)")


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """-> name, if it is one of the known ones."""
    if name not in (known := sorted(known)):
        raise RequestError(f"there is no {kind} {name!r}; choose one of {', '.join(known)}.")
    return name
