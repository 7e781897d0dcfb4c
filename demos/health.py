"""Health of the model server and of the three models, for the status line of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demos.predictions import ModelClient, first_sentence
from demos.tasks import TASKS
from serving.client import ServingError

ABSENT = "absent"  # the server does not have the model
LOADING = "loading"
FAILED = "failed"
READY = "ready"
STATUS_TIMEOUT = 2.0  # seconds; the next health check follows soon


@dataclass(frozen=True)
class ModelHealth:
    """The state of one model; ``detail`` is its highest ready version, or the reason of its failure."""

    state: str
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """Whether the server reports the status of its models, the state of each task's model, or the server's error."""

    reachable: bool
    models: Mapping[str, ModelHealth] = field(default_factory=dict)
    error: str = ""


def check(client: ModelClient) -> Health:
    """Return the state of every task's model; never raise if the server does not answer."""
    models = {}
    for task in TASKS:
        try:
            models[task] = model_health(client, task)
        except ServingError as error:
            if error.code != "NOT_FOUND":  # the same error is expected for the other models
                return Health(reachable=False, error=describe_error(error))
            models[task] = ModelHealth(ABSENT)
    return Health(reachable=True, models=models)


def describe_error(error: ServingError) -> str:
    """Return the predicate of a sentence about the server; empty if no server answers."""
    if error.code == "UNAVAILABLE":
        return ""
    if error.code == "DEADLINE_EXCEEDED":
        return "is busy; this page checks again automatically."
    return f"is not a model server: {first_sentence(error.message)}"


def model_health(client: ModelClient, task: str) -> ModelHealth:
    """Return the best state among the versions of a model."""
    versions = client.status(task, timeout=STATUS_TIMEOUT)
    ready = [version.version for version in versions if version.state == "AVAILABLE"]
    if ready:
        return ModelHealth(READY, str(max(ready)))
    if any(version.state in ("START", "LOADING") for version in versions):
        return ModelHealth(LOADING)
    failed = [version.message for version in versions if version.code not in ("OK", 0, "")]
    return ModelHealth(FAILED, first_sentence(failed[0])) if failed else ModelHealth(ABSENT)
