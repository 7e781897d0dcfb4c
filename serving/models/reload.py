"""Reconfigure a running server, by HandleReloadConfigRequest or by polling the configuration file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tensorflow_serving.apis import model_management_pb2

from serving.errors import StatusError, invalid_argument
from serving.models.manager import ModelManager
from serving.models.storage import read_config_file
from serving.protocol import CODES

log = logging.getLogger("serving")


def handle_reload(
    manager: ModelManager,
    request: model_management_pb2.ReloadConfigRequest,
    metric_value: Callable[[str], int | None],
) -> model_management_pb2.ReloadConfigResponse:
    """Replace the list of models. Blocks until they are loaded, so call it in a thread.

    The response's `status` contains a failure; the caller must also make it the status of the call. `metric_value`
    returns the sum of a metric over its labels; None for an unknown metric, which the response omits.
    """
    before = {name: metric_value(name) or 0 for name in request.metric_names}
    response = model_management_pb2.ReloadConfigResponse()
    try:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                "currently supported"
            )
        manager.reload(request.config)
    except StatusError as error:
        log.error("ReloadConfig failed: %s", error.message)
        response.status.error_code = CODES[error.code]
        response.status.error_message = error.message
    after = {name: metric_value(name) for name in before}  # once per metric, because the sum is slow
    for name in request.metric_names:
        if (value := after[name]) is not None:
            response.metric.add(name=name, int64_value_increase=value - before[name])
    return response


class ConfigPoller:
    """Applies --model_config_file again every `seconds`. An invalid file is logged and changes nothing."""

    def __init__(self, manager: ModelManager, path: str, seconds: float) -> None:
        self._manager, self._path, self._seconds = manager, path, seconds
        self._problem = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="config", daemon=True)

    def start(self) -> None:
        """Start polling; call it after the manager has started."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self.poll()

    def poll(self) -> None:
        """Apply the file, even if it is unchanged: a label may point to a version that has been loaded since."""
        problem = ""
        try:
            self._manager.reload(read_config_file(self._path), wait=False)
        except StatusError as error:
            problem = f"{self._path} changes nothing: {error}"
        except Exception as error:  # the next poll may succeed
            problem = f"{self._path} changes nothing: {type(error).__name__}: {error}"
        if problem not in ("", self._problem):
            log.error("%s", problem)
        self._problem = problem
