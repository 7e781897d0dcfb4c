"""The three tasks; a model is served under the name of its task."""

from __future__ import annotations

IMAGES = "image_classification"
TEXT = "text_generation"
TRANSLATION = "translation"
TASKS = (IMAGES, TEXT, TRANSLATION)


def train_command(task: str) -> str:
    """Return the command that trains ``task`` quickly on bundled data."""
    return f"python -m kerasnets.train {task} --preset quick --run-dir runs/quick/{task}"


def export_command(task: str) -> str:
    """Return the command that exports the trained network to the directory of the server."""
    return f"python -m kerasnets.export runs/quick/{task} --models-dir models"


def serve_command(address: str) -> str:
    """Return the command that starts a server at ``address``."""
    port = address.rpartition(":")[2]
    flag = "" if port == "8500" else f" --port={port}"  # 8500 is the server's default
    return f"python -m serving --models_dir=models{flag} --rest_api_port=8501"
