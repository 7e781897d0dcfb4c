"""Fakes of the loader and of its results, to test the manager without TensorFlow and ports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.errors import StatusError
from serving.models.manager import ModelManager, Timing
from serving.models.storage import ModelConfig


class FakeServable:
    """A loaded version that records whether it was closed."""

    def __init__(self, model: str, number: int, path: str) -> None:
        self.model, self.number, self.path, self.closed = model, number, path, False

    def close(self) -> None:
        self.closed = True


class FakeLoader:
    """Loads any version. Tests can block it with `proceed`, and make the next loads of a version fail."""

    def __init__(self) -> None:
        self.loaded: dict[int, FakeServable] = {}
        self.order: list[int] = []
        self.failures: dict[int, int] = {}
        self.proceed = threading.Event()
        self.proceed.set()

    def __call__(self, model: str, number: int, path: str) -> FakeServable:
        self.order.append(number)
        self.proceed.wait(30)
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            raise StatusError("DATA_LOSS", "half written")
        self.loaded[number] = FakeServable(model, number, path)
        return self.loaded[number]


class InlineExecutor:
    """Replaces a thread pool: runs jobs in `submit`."""

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        job(*arguments)

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
    """Return a manager with short intervals that has not been started."""
    return ModelManager(find, loader or FakeLoader(), Timing(poll, retries, 0.05), **options)


def states(manager: ModelManager, name: str = "m") -> dict[int, str]:
    return {number: state for number, state, _ in manager.versions(name)}


def latest(manager: ModelManager, name: str = "m") -> int:
    with manager.use(name) as version:
        return version.number


def status_error(function: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """Return the text of the StatusError that a call raises."""
    try:
        function(*arguments, **options)
    except StatusError as error:
        return str(error)
    raise AssertionError("no StatusError was raised")
