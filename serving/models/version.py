"""State of a version in the model manager, and its use by a request. Does not import TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serving.errors import StatusError


@dataclass(eq=False)
class Version:
    """One version of a model. The lock of its manager guards all fields except `references`."""

    model: str
    number: int
    path: str
    state: str = "START"
    aspired: bool = True
    servable: Any = None
    references: list[None] = field(default_factory=list)  # one entry per request in flight; needs no lock
    attempts: int = 0
    next_attempt: float = 0.0  # time.monotonic()
    busy: bool = False  # a thread is loading or unloading the version
    successor: str = ""  # path to load after unloading, if the version is aspired again
    error: StatusError | None = None

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Use:
    """A reference to a version, from the look-up of a request until the end of its `with`; it prevents unloading."""

    __slots__ = ("_active", "_version")

    def __init__(self, version: Version) -> None:
        self._version, self._active = version, True

    def __enter__(self) -> Version:
        return self._version

    def __exit__(self, *exception: object) -> None:
        if self._active:
            self._active = False
            self._version.references.pop()

    __del__ = __exit__  # for a request that is cancelled before its `with`


@dataclass
class Model:
    """All versions of a model that the manager has found."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)

    def in_state(self, state: str) -> list[Version]:
        """Return the versions in a state, highest first."""
        versions = [version for version in self.versions.values() if version.state == state]
        return sorted(versions, key=lambda version: -version.number)

    def settled(self) -> bool:
        """Return whether a version is available, or all aspired versions have failed."""
        aspired_states = {version.state for version in self.versions.values() if version.aspired}
        return bool(self.in_state("AVAILABLE")) or aspired_states == {"END"}

    def failure(self) -> Version | None:
        """Return the highest version that failed, if none is available."""
        failed = [version for version in self.in_state("END") if version.aspired]
        return failed[0] if failed and not self.in_state("AVAILABLE") else None
