"""A stand-in for the loader, so that the manager is tested without TensorFlow and ports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.errors import StatusError
from serving.models.manager import ModelManager, Timing
from serving.models.storage import ModelConfig


class Loaded:
    """What was loaded; knows whether it was closed."""

    def __init__(self, model: str, number: int, path: str) -> None:
        self.model, self.number, self.path, self.closed = model, number, path, False

    def close(self) -> None:
        self.closed = True


class Loader:
    """Loads anything; a test can hold it up or let it fail."""

    def __init__(self) -> None:
        self.loaded: dict[int, Loaded] = {}
        self.order: list[int] = []
        self.failures: dict[int, int] = {}
        self.admission = threading.Event()
        self.admission.set()

    def __call__(self, model: str, number: int, path: str) -> Loaded:
        self.order.append(number)
        self.admission.wait(30)
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            raise StatusError("DATA_LOSS", "half written")
        self.loaded[number] = Loaded(model, number, path)
        return self.loaded[number]


class Inline:
    """Stands in for a pool of threads: what is submitted is done at once."""

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        work(*arguments)

    def shutdown(self, **options: bool) -> None:
        pass


def add_versions(base_path: Path, *numbers: int) -> Path:
    for number in numbers:
        (base_path / str(number)).mkdir(parents=True, exist_ok=True)
    base_path.mkdir(exist_ok=True)
    return base_path


def new_manager(
    find: Callable[[], list[ModelConfig]],
    loader: Any = None,
    poll: float = 0.05,
    retries: int = 5,
    **options: Any,
) -> ModelManager:
    """Not started; quick, so that tests are."""
    return ModelManager(find, loader or Loader(), Timing(poll, retries, 0.05), **options)


def states(manager: ModelManager, name: str = "m") -> dict[int, str]:
    return {number: state for number, state, _ in manager.versions(name)}


def latest(manager: ModelManager, name: str = "m") -> int:
    with manager.use(name) as version:
        return version.number


def refusal(function: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The StatusError of a call, as text."""
    try:
        function(*arguments, **options)
    except StatusError as error:
        return str(error)
    raise AssertionError("it was not refused")
