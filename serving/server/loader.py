"""Load one version: read it, set up its batching, and warm it up."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from serving.api.predict import Settings
from serving.engine.batching import Scheduler
from serving.engine.servable import Servable, trim_memory
from serving.engine.tflite import TFLiteServable
from serving.engine.workers import Workers
from serving.errors import StatusError
from serving.models.storage import TFLITE_NAME
from serving.server.warmup import warm_up
from serving.settings.configuration import Batching, read_model_batching
from serving.settings.load_options import LoadOptions
from serving.telemetry.metrics import Metrics

log = logging.getLogger("serving")
T = TypeVar("T")
UNKNOWN_OPERATION = "Op type not registered"  # in the runtime's error message


class Loader:
    """Callable that loads a version of a model from a path. The manager's threads call it."""

    def __init__(
        self,
        options: LoadOptions,
        settings: Settings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        workers: Workers,
    ) -> None:
        self._options, self._settings, self._metrics = options, settings, metrics
        self._loop, self._workers = loop, workers
        # Versions without batching parameters of their own share one scheduler and its threads.
        self._scheduler = None if options.batching is None else self._new_scheduler(options.batching)

    def __call__(self, model: str, number: int, path: str) -> Servable | TFLiteServable:
        servable = self._timed(
            lambda: self._read(path), lambda status, micros: self._metrics.record_load(path, status, micros)
        )
        try:
            if self._options.warm_up:
                self._warm_up(servable, model, number)
        except BaseException:
            servable.close()
            raise
        trim_memory()
        return servable

    def _read(self, path: str) -> Servable | TFLiteServable:
        options = self._options
        if options.prefer_tflite and os.path.exists(os.path.join(path, TFLITE_NAME)):
            return TFLiteServable(path, options.tflite_pools * options.tflite_interpreters_per_pool)
        scheduler = self._scheduler
        if options.batching is not None and options.batching_per_model:
            batching = read_model_batching(path, options.batching)
            scheduler = None if batching is None else self._new_scheduler(batching)
        try:
            return Servable(path, options.tags, options.session, scheduler, self._metrics.record_graph_run)
        except StatusError as error:
            if UNKNOWN_OPERATION not in error.message or not import_operations():
                raise
        return Servable(path, options.tags, options.session, scheduler, self._metrics.record_graph_run)

    def _warm_up(self, servable: Servable | TFLiteServable, model: str, number: int) -> None:
        records = 0

        def replay() -> None:
            nonlocal records
            records = warm_up(servable, number, self._settings, self._options.warm_up_iterations)

        self._timed(replay, lambda status, micros: self._metrics.record_warmup(servable.path, status, micros, records))
        log.info("Replayed %d warm-up requests of %s version %d", records, model, number)

    def _timed(self, function: Callable[[], T], report: Callable[[str, float], None]) -> T:
        """Return the result of `function`; pass its status and duration in microseconds to `report`."""
        start, status = time.perf_counter(), "OK"
        try:
            return function()
        except StatusError as error:
            status = str(error)
            raise
        finally:
            report(status, 1e6 * (time.perf_counter() - start))

    def _new_scheduler(self, parameters: Batching) -> Scheduler:
        return Scheduler(parameters, self._loop, self._workers, self._metrics.record_batch)


def import_operations() -> bool:
    """Import TF Text, which registers its operations; return False if it is not installed or already imported.

    Few graphs use the operations, so the import waits for a graph that does.
    """
    if "tensorflow_text" in sys.modules:
        return False
    try:
        importlib.import_module("tensorflow_text")
    except ImportError as error:
        log.warning(
            "TF Text, which may have the missing operation, is not installed (pip install 'kerasnets[text]'): %s", error
        )
        return False
    return True
