"""Dataclasses of options: checked at construction, converted from and to nested dictionaries, as in TOML.

The doc string of a field is its help on the command line.
"""

import dataclasses
import types
import typing
from typing import Any, Literal

from kerasnets.checks import RequestError, check, choose

C = typing.TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of the dataclasses of options.

    Attributes:
        prefix: prefix of the fields' names on the command line and in errors.
        kind: name of the network, for a field that may hold the options of several networks.
    """

    prefix = ""
    kind = ""

    def __post_init__(self) -> None:
        try:
            self.check()
        except ValueError as error:
            raise RequestError(str(error)) from None

    def check(self) -> None:
        """Raises: ValueError if a value is not allowed or values are incompatible."""

    def values(self, *names: str) -> dict[str, Any]:
        """-> the values of these fields by their full names: {"training.epochs": 10, ...}."""
        return {self.prefix + name: getattr(self, name) for name in names}


def network_options(hint: Any) -> dict[str, Any]:
    """The type of a network field -> the networks that it allows, by name; the first is the default."""
    return {cls.kind: cls for cls in typing.get_args(hint) or (hint,)}


def to_dict(config: Options) -> dict[str, Any]:
    """-> the dataclass as nested dictionaries, without fields that are None, which TOML cannot represent.

    A network's table begins with its `kind`.
    """
    kind = {"kind": config.kind} if config.kind else {}
    return kind | {
        name: to_dict(value) if isinstance(value, Options) else value
        for name, value in vars(config).items()
        if value is not None
    }


def from_dict(cls: type[C], values: dict[str, Any], prefix: str = "") -> C:
    """-> a dataclass with these values. Raises: RequestError for an unknown key or a value of another type."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise RequestError(
                f"there is no option {prefix}{key}; choose one of {', '.join(prefix + k for k in hints)}."
            )
    return cls(**{key: convert(hints[key], value, prefix + key) for key, value in values.items()})


def convert(hint: Any, value: Any, name: str) -> Any:
    """-> value converted to the type `hint`, without loss: a list to a tuple, an int to a float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if name == "model":
        check(isinstance(value, dict), name, value, "a table")
        networks = network_options(hint)
        kind = choose(name, value.get("kind", next(iter(networks))), networks)
        return from_dict(networks[kind], {k: v for k, v in value.items() if k != "kind"}, f"{name}.")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        check(isinstance(value, dict), name, value, "a table")
        return from_dict(hint, value, f"{name}.")
    if origin is Literal:
        check(value in arguments, name, value, " or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        check(isinstance(value, list | tuple), name, value, "a list")
        return tuple(convert(arguments[0], item, name) for item in value)
    if origin is types.UnionType:
        return value if value is None else convert(arguments[0], value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(type(value) is hint, name, value, f"of type {hint.__name__}")
    return value


def flatten(config: Options, prefix: str = "") -> dict[str, Any]:
    """Nested dataclasses -> {"model.units": 256, ...}."""
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        nested = isinstance(value, Options)
        values |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return values
