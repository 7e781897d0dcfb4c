"""Check whether a training can resume in a run directory, and with which options."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerasnets.checks import RequestError, choose
from kerasnets.config.run import Config, Training
from kerasnets.config.values import flatten, from_dict, to_dict
from kerasnets.run import config_file, lock
from kerasnets.run.files import (
    CONFIG,
    DATA,
    EXAMPLES,
    METRICS,
    MODEL,
    is_intact_model,
    is_partial,
    read_json,
)
from kerasnets.tasks import TASKS

# Files that a run writes before its config.toml, and rewrites if it was interrupted in between.
FIRST_FILES = {*(facts.vocabulary_file for facts in TASKS.values()), "lengths.npz", EXAMPLES, DATA, lock.FILE}
# Options on which the batches or the values in a checkpoint depend.
FIXED = ("batch_size", "optimizer", "momentum", "average_decay", "average_epochs")
# Options that may change when a run resumes.
RESUMABLE = tuple(f"training.{field.name}" for field in dataclasses.fields(Training) if field.name not in FIXED)


def parse_overrides(text: str) -> dict[str, str]:
    """ "training.learning-rate=1e-3,training.clip-norm=0.5" -> {"training.learning_rate": "1e-3", ...}"""
    values = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        values[choose("option for --resume-with", name.strip().replace("-", "_"), RESUMABLE)] = value.strip()
    return values


def apply_overrides(config: Config, overrides: Mapping[str, str]) -> Config:
    """-> the configuration with new values of options in RESUMABLE."""
    training = to_dict(config.training)
    for name, value in overrides.items():
        field = name.removeprefix("training.")
        kind = type(training[field])
        try:
            training[field] = kind(value)
        except ValueError:
            raise RequestError(f"{name} is {value!r}; it must be of type {kind.__name__}.") from None
    return dataclasses.replace(config, training=from_dict(Training, training, "training."))


def check_resumable(
    run_dir: Path, task_name: str, preset: str, config: Config, resume_with: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """-> the metrics of the directory's run if it is finished, else None; the options that `resume_with` changes,
    {name: [before, after]}.

    Raises: RequestError if the directory holds another run, or files but no run that can resume.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RequestError(f"{run_dir} is a file; give a directory as --run-dir.")
    if not (run_dir / CONFIG).exists():
        names = {path.name for path in run_dir.iterdir()} if run_dir.exists() else set()
        if any(name not in FIRST_FILES and not is_partial(name) for name in names):
            raise RequestError(f"{run_dir} holds files but no run; give an empty or a new directory as --run-dir.")
        if resume_with:
            raise RequestError(f"{run_dir} has no run to resume; give the values without --resume-with, as options.")
        return None, {}
    saved_task, _, saved_config = config_file.load(run_dir / CONFIG)
    if saved_task != task_name:
        raise RequestError(f"{run_dir} holds a run of {saved_task}, not of {task_name}; give another --run-dir.")
    if saved_config.model.kind != config.model.kind:
        change = f"model was {saved_config.model.kind!r} and is now {config.model.kind!r}"
        raise RequestError(f"{run_dir} holds a run with other options ({change}); give another --run-dir.")
    old, new = flatten(saved_config), flatten(config)
    changes = {name: [old[name], new[name]] for name in new if old[name] != new[name] and name != "data_dir"}
    require_unchanged(run_dir, {name: change for name, change in changes.items() if name not in resume_with})
    metrics = read_json(run_dir / METRICS) if (run_dir / METRICS).exists() else None
    if metrics and changes:
        raise RequestError(f"{run_dir} is finished; give another --run-dir to train with other options.")
    if metrics and not is_intact_model(run_dir / MODEL):
        metrics = None  # resuming rewrites model.keras
    return metrics, changes


def require_unchanged(run_dir: Path, changes: Mapping[str, Any]) -> None:
    """Raises: RequestError, with a way to proceed, if options have changed."""
    if not changes:
        return
    text = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changes.items())
    remedy = "give another --run-dir"
    if all(name in RESUMABLE for name in changes):
        values = ",".join(f"{name}={new}" for name, (_, new) in changes.items())
        remedy += f", or resume with these values: --resume-with {values}"
    raise RequestError(f"{run_dir} holds a run with other options ({text}); {remedy}.")
