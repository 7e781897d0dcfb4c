"""Checks of values, and their one-sentence errors: the name, the value and the allowed values.

A wrong argument of a layer or a model raises ValueError. A wrong value from the user (an option, a file, data) raises
RequestError, which ends a program with exit status 2.
"""

from collections.abc import Iterable


class RequestError(ValueError):
    """A wrong request: one sentence with the value, the allowed values and a remedy."""


def check_counts(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more.")


def check_choice(name, value, *allowed):
    if value not in allowed:
        *first, last = (f'"{choice}"' if choice else "None" for choice in allowed)
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(first)} or {last}.")


def check_fractions(**values):
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be in [0, 1).")


def check(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise RequestError unless a condition of an option holds."""
    if not holds:
        raise RequestError(f"{name} is {value!r}; it must be {allowed}.")


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """-> `name`. Raises: RequestError if it is not one of the choices."""
    if name not in (choices := sorted(choices)):
        raise RequestError(f"there is no {kind} {name!r}; choose one of {', '.join(choices)}.")
    return name
