"""Versions come and go: looked for, loaded, warmed up, found by requests, unloaded. No TensorFlow.

State of a version: START (found), LOADING, AVAILABLE, UNLOADING (waits for requests), END (gone or failed).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.errors import StatusError, invalid_argument
from serving.storage import ModelConfig, aspired_versions, find_versions

log = logging.getLogger("serving")
TICK_SECONDS = 0.1


class Loaded(Protocol):
    """What a loader returns."""

    def close(self) -> None: ...


Loader = Callable[[str, int, str], Any]  # (model name, version, path) -> Loaded


@dataclass(eq=False)
class Version:
    """One version of a model; all fields are guarded by the manager's lock."""

    model: str
    number: int
    path: str
    state: str = "START"
    aspired: bool = True
    servable: Any = None
    requests: int = 0  # in flight
    attempts: int = 0
    next_attempt: float = 0.0  # time.monotonic()
    busy: bool = False  # a thread is loading or closing it
    error: StatusError | None = None

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Use:
    """A version that a request holds on to; it is not unloaded within the `with`."""

    def __init__(self, version: Version, lock: threading.Lock) -> None:
        self._version, self._lock = version, lock

    def __enter__(self) -> Version:
        return self._version

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._version.requests -= 1


@dataclass
class Model:
    """The versions known of a model, and its labels."""

    config: ModelConfig
    versions: dict[int, Version] = field(default_factory=dict)

    def in_state(self, state: str) -> list[Version]:
        """Highest first."""
        found = [version for version in self.versions.values() if version.state == state]
        return sorted(found, key=lambda version: -version.number)


@dataclass(frozen=True)
class Timing:
    """How often to look and to try: seconds, except for `retries`."""

    poll: float = 1.0  # 0 or negative: only at the start
    retries: int = 5
    retry_interval: float = 60.0


class ModelManager:
    """Keeps the loaded versions equal to those that the configuration and the disk ask for.

    `find` gives the models to serve; it is asked again at every poll, so it can find new ones.
    """

    def __init__(self, find: Callable[[], list[ModelConfig]], load: Loader, timing: Timing, load_threads: int) -> None:
        self._find, self._load, self._timing = find, load, timing
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self) -> None:
        """Load what there is; returns when every model has an available version, raises if one cannot."""
        self._poll()
        self._thread.start()
        with self._changed:
            while not all(_settled(model) for model in self._models.values()):
                self._changed.wait(TICK_SECONDS)
            failed = [v for m in self._models.values() if not m.in_state("AVAILABLE") for v in m.in_state("END")]
        if failed:
            causes = "".join(f"{{{version} due to error: {version.error}}}, " for version in failed)
            raise StatusError("UNKNOWN", f"{len(failed)} servable(s) did not become available: {{{causes}}}")

    def stop(self) -> None:
        """Stop looking and loading; what is loaded goes with the process."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def use(self, name: str, number: int | None = None, label: str | None = None) -> Use:
        """The version that a request asks for, held until the end of its `with`."""
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        with self._lock:
            model = self._models.get(name)
            if label is not None:
                if model is None or label not in model.config.labels:
                    raise invalid_argument(f"Unrecognized servable version label: {label}")
                number = model.config.labels[label]
            version = _available(model, number)
            if version is None:
                asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise StatusError("NOT_FOUND", f"Servable not found for request: {asked}")
            version.requests += 1
        return Use(version, self._lock)

    def versions(self, name: str) -> list[tuple[int, str, StatusError | None]]:
        """Number, state and error of all versions ever seen of a model, highest first."""
        with self._lock:
            model = self._models.get(name)
            found = [] if model is None else list(model.versions.values())
            return sorted(((v.number, v.state, v.error) for v in found), reverse=True, key=lambda v: v[0])

    def _run(self) -> None:
        next_poll = time.monotonic() + self._timing.poll
        while not self._stopped.wait(TICK_SECONDS):
            if self._timing.poll > 0 and next_poll <= time.monotonic():
                self._poll()
                next_poll = time.monotonic() + self._timing.poll
            with self._lock:
                for model in self._models.values():
                    self._advance(model)

    def _poll(self) -> None:
        """Compare the disk with what is known. A missing base path postpones it all: the disk may be away."""
        try:
            configs = self._find()
            present = {config.name: find_versions(config.base_path) for config in configs}
        except OSError as error:
            log.warning("FileSystemStoragePathSource encountered a filesystem access error: %s", error)
            return
        with self._changed:
            for config in configs:
                self._models.setdefault(config.name, Model(config))
            for name, model in self._models.items():
                paths = present.get(name, {})
                self._aspire(model, {n: paths[n] for n in aspired_versions(model.config.policy, paths)})
                self._advance(model)

    def _aspire(self, model: Model, paths: dict[int, str]) -> None:
        """Mark which versions should be loaded; one that ended comes back only after it was not wanted.

        One that is going is taken up anew once it has ended.
        """
        for number, path in paths.items():
            known = model.versions.get(number)
            if known is None or (known.state == "END" and not known.aspired):
                model.versions[number] = Version(model.config.name, number, path)
            elif known.state != "UNLOADING":
                known.aspired = True
        for version in model.versions.values():
            if version.number not in paths:
                version.aspired = False

    def _advance(self, model: Model) -> None:
        """Start what is due: loads first, so that a model stays available while its version changes."""
        now = time.monotonic()
        for version in model.in_state("START") + model.in_state("LOADING"):
            if version.busy:
                continue
            if not version.aspired:
                self._set(version, "END")
            elif version.next_attempt <= now:
                self._submit(version, self._load_version)
        available = model.in_state("AVAILABLE")
        unwanted = [version for version in available if not version.aspired]
        nothing_wanted = not any(version.aspired for version in model.versions.values())
        if unwanted and (len(unwanted) < len(available) or nothing_wanted or len(unwanted) > 1):
            self._set(unwanted[-1], "UNLOADING")
        for version in model.in_state("UNLOADING"):
            if not version.busy and version.requests == 0:
                self._submit(version, self._unload_version)

    def _submit(self, version: Version, work: Callable[[Version], None]) -> None:
        version.busy = True
        if version.state == "START":
            self._set(version, "LOADING")
        self._pool.submit(work, version)

    def _load_version(self, version: Version) -> None:
        log.info("Loading servable version %s from %s", version, version.path)
        error = None
        try:
            servable = self._load(version.model, version.number, version.path)
        except StatusError as failure:
            error = failure
        except Exception as failure:  # a broken SavedModel can break its loader in any way
            error = StatusError("UNKNOWN", f"{type(failure).__name__}: {failure}")
        with self._changed:
            version.busy = False
            if error is None:
                version.servable = servable
                self._set(version, "AVAILABLE")
                log.info("Successfully loaded servable version %s", version)
            else:
                self._failed(version, error)

    def _failed(self, version: Version, error: StatusError) -> None:
        version.attempts += 1
        left = self._timing.retries + 1 - version.attempts
        log.error("Loading servable: %s failed: %s (%d more attempts)", version, error, left)
        version.next_attempt = time.monotonic() + self._timing.retry_interval
        if left <= 0:
            version.error = error
            self._set(version, "END")

    def _unload_version(self, version: Version) -> None:
        version.servable.close()
        with self._changed:
            version.servable, version.busy = None, False
            self._set(version, "END")
            log.info("Unloaded servable version %s", version)

    def _set(self, version: Version, state: str) -> None:
        version.state = state
        self._changed.notify_all()


def _available(model: Model | None, number: int | None) -> Version | None:
    """The version `number`, or the highest one, if it is AVAILABLE."""
    if model is None:
        return None
    if number is None:
        available = [version for version in model.versions.values() if version.state == "AVAILABLE"]
        return max(available, key=lambda version: version.number, default=None)
    version = model.versions.get(number)
    return version if version is not None and version.state == "AVAILABLE" else None


def _settled(model: Model) -> bool:
    """A version is available, or none is under way any more."""
    return bool(model.in_state("AVAILABLE")) or not (model.in_state("START") or model.in_state("LOADING"))
