"""Which of the three models answer: what the line at the top of the page says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demos.predictions import ModelClient, first_sentence
from demos.tasks import TASKS
from serving.client import ServingError

ABSENT = "absent"  # the server does not know the model
LOADING = "loading"
FAILED = "failed"
READY = "ready"
PATIENCE = 2.0  # seconds for a look; the next one is soon


@dataclass(frozen=True)
class ModelHealth:
    """One model's state; ``detail`` is its newest ready version, or why it failed."""

    state: str
    detail: str = ""


@dataclass(frozen=True)
class Health:
    """Whether the server says what it serves, and the state of each task's model; ``trouble`` is what it does else."""

    reachable: bool
    models: Mapping[str, ModelHealth] = field(default_factory=dict)
    trouble: str = ""


def check(client: ModelClient) -> Health:
    """Ask the server for the state of every task's model; never raises for a server that is away."""
    models = {}
    for task in TASKS:
        try:
            models[task] = model_health(client, task)
        except ServingError as error:
            if error.code != "NOT_FOUND":  # one that cannot be reached for one model is not asked for the next
                return Health(reachable=False, trouble=trouble(error))
            models[task] = ModelHealth(ABSENT)
    return Health(reachable=True, models=models)


def trouble(error: ServingError) -> str:
    """What a server does that is there, but does not say what it serves; nothing when there is none."""
    if error.code == "UNAVAILABLE":
        return ""
    if error.code == "DEADLINE_EXCEEDED":
        return "is busy; this page looks again by itself."
    return f"answers, but not as a model server: {first_sentence(error.message)}"


def model_health(client: ModelClient, task: str) -> ModelHealth:
    """The best state among a model's versions."""
    versions = client.status(task, timeout=PATIENCE)
    ready = [version.version for version in versions if version.state == "AVAILABLE"]
    if ready:
        return ModelHealth(READY, str(max(ready)))
    if any(version.state in ("START", "LOADING") for version in versions):
        return ModelHealth(LOADING)
    failed = [version.message for version in versions if version.code not in ("OK", 0, "")]
    return ModelHealth(FAILED, first_sentence(failed[0])) if failed else ModelHealth(ABSENT)
