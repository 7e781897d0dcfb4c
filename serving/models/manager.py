"""Life cycle of versions: find, load, warm up, look up for requests, unload. Does not import TensorFlow.

States of a version: START (found), LOADING, AVAILABLE, UNLOADING (waits for requests), END (unloaded or failed).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from serving.errors import StatusError, invalid_argument
from serving.models.storage import (
    ModelConfig,
    ModelServerConfig,
    check_labels,
    check_logging,
    check_platforms,
    check_same_platforms,
    find_aspired,
    models_of,
)
from serving.models.version import Model, Use, Version
from serving.settings.flags import THREADS

log = logging.getLogger("serving")
TICK_SECONDS = 0.1


class LoadedVersion(Protocol):
    """A loaded version, as a loader returns it."""

    def close(self) -> None: ...


Loader = Callable[[str, int, str], Any]  # (model name, version, path) -> LoadedVersion


@dataclass(frozen=True)
class Timing:
    """Intervals in seconds between polls and between load attempts, and the number of `retries`."""

    poll: float = 1.0  # 0: only at startup and after a new configuration; negative: never
    retries: int = 5
    retry_interval: float = 60.0  # negative: no waiting


class ModelManager:
    """Keeps the loaded versions in step with the configuration and the disk.

    `find` returns the models to serve; every poll calls it again, so it may return new models. Startup loads with many
    threads, later loads use `load_threads`. With `free_labels`, labels not yet in use may point to any version.
    """

    def __init__(
        self,
        find: Callable[[], list[ModelConfig]],
        load: Loader,
        timing: Timing,
        load_threads: int = 0,
        unload_threads: int = 0,
        free_labels: bool = False,
    ) -> None:
        self._find, self._load, self._timing, self._free_labels = find, load, timing, free_labels
        self._models: dict[str, Model] = {}
        self._configs: dict[str, ModelConfig] = {}
        # Requests read these without a lock: dicts or their entries are replaced as a whole, never changed in place.
        self._labels: dict[str, dict[str, int]] = {}
        self._serving: dict[str, dict[int | None, Version]] = {}  # AVAILABLE versions; None: the highest
        self._changed = threading.Condition()
        self._reloading = threading.Lock()
        self._generation = 0  # counts configurations
        self._problems: set[str] = set()
        self._stopped = threading.Event()
        self._load_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="load")
        self._unload_pool = ThreadPoolExecutor(max(unload_threads, 1), thread_name_prefix="unload")
        self._load_threads = max(load_threads, 1)
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self) -> None:
        """Load the versions on disk; return when every model has an available version, raise if a model fails.

        Wait for models that have no version yet.
        """
        try:
            self._configure(self._find())
        except OSError as error:
            self._report([f"The models directory cannot be read: {error}"])
        self._poll()
        self._thread.start()
        self._wait(self._configs, "servable(s)")
        with self._changed:
            initial = self._load_pool
            self._load_pool = ThreadPoolExecutor(self._load_threads, thread_name_prefix="load")
        initial.shutdown(wait=False)

    def stop(self) -> None:
        """Stop polling and loading; loaded versions stay in memory until the process ends."""
        self._stopped.set()
        for pool in (self._load_pool, self._unload_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def use(self, name: str, number: int | None = None, label: str | None = None) -> Use:
        """Look up the version for a request; it stays loaded until the end of the `with`. Thread-safe."""
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        if label is not None:
            number = self._labels.get(name, {}).get(label)
            if number is None:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
        while (versions := self._serving.get(name)) and (version := versions.get(number)):
            version.references.append(None)
            if version.state == "AVAILABLE":  # otherwise it is being unloaded, and the next look-up does not find it
                return Use(version)
            version.references.pop()
        requested = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise StatusError("NOT_FOUND", f"Servable not found for request: {requested}")

    def versions(self, name: str) -> list[tuple[int, str, StatusError | None]]:
        """Return number, state and error of all versions of a model that were ever found, highest first."""
        with self._changed:
            model = self._models.get(name)
            versions = [] if model is None else list(model.versions.values())
            versions.sort(key=lambda version: -version.number)
            return [(v.number, v.state, v.error if v.state == "END" else None) for v in versions]

    def models(self) -> list[str]:
        """Return the names of the configured models, in the order of the configuration."""
        return list(self._configs)

    def labels(self, name: str) -> dict[str, int]:
        """Return {label: version}; empty for an unknown model."""
        return dict(self._labels.get(name, {}))

    def ready(self) -> bool:
        """Return whether every configured model has an available version."""
        return all(name in self._serving for name in self._configs)

    def reload(self, config: ModelServerConfig, wait: bool = True) -> None:
        """Replace the whole list of models; return when every new model has an available version.

        After that, the server does not scan a models directory.
        Raises: StatusError for an invalid configuration (nothing changes), for models that failed to load (the others
        are served), or with ABORTED if another configuration arrived before all models were loaded.
        """
        if config.WhichOneof("config") is None:
            log.info("Taking no action for empty config.")
            return
        if config.WhichOneof("config") != "model_config_list":
            raise StatusError(
                "FAILED_PRECONDITION",
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList "
                "to another.",
            )
        models = models_of(config)
        with self._reloading:
            check_same_platforms(self._configs, models)
            for model in models:
                self._check_labels(model)
            check_platforms(models)
            new = {model.name for model in models} - set(self._configs)
            with self._changed:
                self._find = lambda: models
                self._configure(models)
                generation = self._generation
        self._poll()
        if wait:
            self._wait(new, "model(s)", generation)
        check_logging(models)

    def _check_labels(self, model: ModelConfig) -> None:
        in_use = self._labels.get(model.name, {})
        movable = [label for label, number in model.labels.items() if in_use.get(label, number) == number]
        available = [number for number in self._serving.get(model.name, {}) if number is not None]
        check_labels(model, available, movable if self._free_labels else ())

    def _configure(self, models: list[ModelConfig]) -> None:
        """Adopt this list of models and unload all others."""
        configs = {model.name: model for model in models}
        with self._changed:
            if configs == self._configs:
                return
            self._generation += 1
            self._configs = configs
            self._labels = {name: config.labels for name, config in configs.items()}
            for name in configs:
                self._models.setdefault(name, Model(name))
            for model in self._models.values():
                if model.name not in configs:
                    self._aspire(model, {})
            self._changed.notify_all()

    def _wait(self, names: Iterable[str], what: str, generation: int | None = None) -> None:
        """Wait until the models have settled; raise StatusError for those that failed."""
        with self._changed:
            models = [self._models[name] for name in names]
            # A model may vanish from a models directory; the models of a reload stay.
            while any(not model.settled() for model in models if generation or model.name in self._configs):
                if self._stopped.is_set():
                    raise StatusError("CANCELLED", "The server stopped before all models were available")
                if generation not in (None, self._generation):
                    raise StatusError("ABORTED", "Another configuration arrived before all models were available")
                self._changed.wait(TICK_SECONDS)
            failures = [failure for model in models if (failure := model.failure())]
        if failures:
            causes = "".join(f"{{{version} due to error: {version.error}}}, " for version in failures)
            raise StatusError("UNKNOWN", f"{len(failures)} {what} did not become available: {{{causes}}}")

    def _run(self) -> None:
        next_poll = time.monotonic() + self._timing.poll
        while not self._stopped.wait(TICK_SECONDS):
            try:
                if self._timing.poll > 0 and next_poll <= time.monotonic():
                    self._poll()
                    next_poll = time.monotonic() + self._timing.poll
                with self._changed:
                    for model in self._models.values():
                        self._advance(model)
            except Exception:  # an error of one model must not end this thread
                log.exception("Updating the models failed")

    def _poll(self) -> None:
        """Compare the versions with those on disk; change nothing if a base path is missing (an unmounted disk)."""
        if self._timing.poll < 0:
            return
        find = self._find
        try:
            configs = find()
            aspired = {config.name: find_aspired(config) for config in configs}
        except OSError as error:
            self._report([f"No version changes, because a directory cannot be read: {error}"])
            return
        self._report([problem for _, problems in aspired.values() for problem in problems])
        with self._changed:
            if find is not self._find:
                return  # a new configuration arrived, and its reload polls itself
            self._configure(configs)
            for name, (paths, _) in aspired.items():
                self._aspire(self._models[name], paths)
                self._advance(self._models[name])

    def _report(self, problems: Iterable[str]) -> None:
        """Log the problems that the last poll did not have."""
        for problem in set(problems) - self._problems:
            log.warning("%s", problem)
        self._problems = set(problems)

    def _aspire(self, model: Model, paths: dict[int, str]) -> None:
        """Set the versions to load; reload a version in state END only if it was not aspired in between."""
        for number, path in paths.items():
            current = model.versions.get(number)
            if current is None or (current.state == "END" and not current.aspired):
                model.versions[number] = Version(model.name, number, path)
            elif current.state == "UNLOADING":
                current.successor = path
            else:
                current.aspired = True
        for version in model.versions.values():
            if version.number not in paths:
                version.aspired, version.successor = False, ""

    def _advance(self, model: Model) -> None:
        """Start due loads and unloads. Loads come first, so that a model stays available while its version changes."""
        now = time.monotonic()
        for version in model.in_state("START") + model.in_state("LOADING"):
            if version.busy:
                continue
            if not version.aspired:
                self._set(version, "END")
            elif version.next_attempt <= now:
                self._set(version, "LOADING")
                self._submit(self._load_pool, self._load_version, version)
        available = model.in_state("AVAILABLE")
        unaspired = [version for version in available if not version.aspired]
        none_aspired = not any(version.aspired for version in model.versions.values())
        if unaspired and (len(unaspired) < len(available) or none_aspired or len(unaspired) > 1):
            self._set(unaspired[-1], "UNLOADING")
        for version in model.in_state("UNLOADING"):
            if not version.busy and not version.references:
                self._submit(self._unload_pool, self._unload_version, version)

    def _submit(self, pool: ThreadPoolExecutor, job: Callable[[Version], None], version: Version) -> None:
        if not self._stopped.is_set():
            version.busy = True
            pool.submit(job, version)

    def _load_version(self, version: Version) -> None:
        log.info("Loading servable version %s from %s", version, version.path)
        error = None
        try:
            servable = self._load(version.model, version.number, version.path)
        except StatusError as failure:
            error = StatusError(failure.code, failure.message)  # without the traceback, whose frames keep objects alive
        except Exception as failure:  # a broken SavedModel can make its loader raise anything
            error = StatusError("UNKNOWN", f"{type(failure).__name__}: {failure}")
        with self._changed:
            version.busy, version.error = False, error
            if error is None:
                version.servable = servable
                self._set(version, "AVAILABLE")
            else:
                version.attempts += 1
                retries_left = max(self._timing.retries + 1 - version.attempts, 0)
                version.next_attempt = time.monotonic() + self._timing.retry_interval
                if not retries_left:
                    self._set(version, "END")
        # Outside the lock: writing to the log may be slow.
        if error is None:
            log.info("Successfully loaded servable version %s", version)
        else:
            log.error("Loading servable: %s failed: %s (%d more attempts)", version, error, retries_left)

    def _unload_version(self, version: Version) -> None:
        try:
            version.servable.close()
        except Exception:  # the version is unloaded anyway
            log.exception("Closing servable version %s failed", version)
        with self._changed:
            version.servable, version.busy = None, False
            self._set(version, "END")
            if version.successor:
                self._models[version.model].versions[version.number] = Version(
                    version.model, version.number, version.successor
                )
        log.info("Unloaded servable version %s", version)

    def _set(self, version: Version, state: str) -> None:
        """Change the state. Unpublish a version before it leaves AVAILABLE; publish it after it becomes AVAILABLE."""
        if version.state == "AVAILABLE":
            self._publish(version.model, without=version)
        version.state = state
        if state == "AVAILABLE":
            self._publish(version.model)
        self._changed.notify_all()

    def _publish(self, name: str, without: Version | None = None) -> None:
        available = [version for version in self._models[name].in_state("AVAILABLE") if version is not without]
        if available:
            self._serving[name] = {None: available[0], **{version.number: version for version in available}}
        else:
            self._serving.pop(name, None)
