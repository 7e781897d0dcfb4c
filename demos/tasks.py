"""The three tasks as the demos know them: a model's name is its task's name."""

from __future__ import annotations

IMAGES = "image_classification"
TEXT = "text_generation"
TRANSLATION = "translation"
TASKS = (IMAGES, TEXT, TRANSLATION)


def train_command(task: str) -> str:
    """The command that trains ``task`` quickly on bundled data."""
    return f"python -m kerasnets.train {task} --preset quick --run-dir runs/quick/{task}"


def export_command(task: str) -> str:
    """The command that puts the trained network where the server finds it."""
    return f"python -m kerasnets.export runs/quick/{task} --models-dir models"


def serve_command(address: str) -> str:
    """The command that starts a server which answers at ``address``."""
    port = address.rpartition(":")[2]
    flag = "" if port == "8500" else f" --port={port}"  # 8500 is the server's own default
    return f"python -m serving --models_dir=models{flag} --rest_api_port=8501"
