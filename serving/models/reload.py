"""New configurations for a running server: by HandleReloadConfigRequest, and from a file that is looked at again."""

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
    """Replace the list of models; waits until they are loaded, so call it in a thread.

    A failure is in the response's `status`, and has to become the status of the call as well. `metric_value` gives
    the total of a metric, summed over its labels; None if there is no such metric, which is left out.
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
    after = {name: metric_value(name) for name in before}  # once for each: to sum a metric up takes long
    for name in request.metric_names:
        if (value := after[name]) is not None:
            response.metric.add(name=name, int64_value_increase=value - before[name])
    return response


class ConfigPoller:
    """Applies a --model_config_file again every `seconds`; one with errors is logged and changes nothing."""

    def __init__(self, manager: ModelManager, path: str, seconds: float) -> None:
        self._manager, self._path, self._seconds = manager, path, seconds
        self._problem = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="config", daemon=True)

    def start(self) -> None:
        """After the manager's start."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self.poll()

    def poll(self) -> None:
        """Apply the file. Also when it has not changed: a label may point to a version that was loaded meanwhile."""
        problem = ""
        try:
            self._manager.reload(read_config_file(self._path), wait=False)
        except StatusError as error:
            problem = f"{self._path} changes nothing: {error}"
        except Exception as error:  # the next look may succeed
            problem = f"{self._path} changes nothing: {type(error).__name__}: {error}"
        if problem not in ("", self._problem):
            log.error("%s", problem)
        self._problem = problem
