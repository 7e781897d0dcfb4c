"""State of a version in the model manager, and its use by a request. Needs no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serving.errors import StatusError


@dataclass(eq=False)
class Version:
    """One version of a model; the lock of its manager guards all fields except `holds`."""

    model: str
    number: int
    path: str
    state: str = "START"
    aspired: bool = True
    servable: Any = None
    holds: list[None] = field(default_factory=list)  # an entry per request in flight; append and pop need no lock
    attempts: int = 0
    next_attempt: float = 0.0  # time.monotonic()
    busy: bool = False  # a thread is loading or unloading it
    successor: str = ""  # path to load from after unloading, if it is aspired again
    error: StatusError | None = None

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Use:
    """A version in use by a request from its look-up on; it is not unloaded before the end of the `with`."""

    __slots__ = ("_held", "_version")

    def __init__(self, version: Version) -> None:
        self._version, self._held = version, True

    def __enter__(self) -> Version:
        return self._version

    def __exit__(self, *exception: object) -> None:
        if self._held:
            self._held = False
            self._version.holds.pop()

    __del__ = __exit__  # for a request that is cancelled before its `with`


@dataclass
class Model:
    """The known versions of a model."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)

    def in_state(self, state: str) -> list[Version]:
        """Return the versions in a state, highest first."""
        found = [version for version in self.versions.values() if version.state == state]
        return sorted(found, key=lambda version: -version.number)

    def settled(self) -> bool:
        """Return whether a version is available or all aspired versions have failed."""
        wanted = [version.state for version in self.versions.values() if version.aspired]
        return bool(self.in_state("AVAILABLE")) or (bool(wanted) and set(wanted) == {"END"})

    def failure(self) -> Version | None:
        """Return the highest version that failed, if none is available."""
        ended = [version for version in self.in_state("END") if version.aspired]
        return ended[0] if ended and not self.in_state("AVAILABLE") else None
