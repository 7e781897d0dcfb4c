"""Presets: tested configurations, `presets/TASK/NAME.toml`."""

import tomllib
from pathlib import Path
from typing import Any

from kerasnets.checks import choose
from kerasnets.config.run import Config
from kerasnets.config.values import from_dict
from kerasnets.tasks import get_facts

PRESETS = Path(__file__).parents[1] / "presets"


def presets(task_name: str) -> list[str]:
    return sorted(path.stem for path in (PRESETS / task_name).glob("*.toml"))


def load_preset(task_name: str, name: str | None = None) -> Config:
    """-> the configuration of a preset (default: the task's default preset)."""
    return from_dict(get_facts(task_name).config, read_preset(task_name, name))


def read_preset(task_name: str, name: str | None = None) -> dict[str, Any]:
    """-> the values in the file of a preset (default: the task's default preset), without those that are defaults."""
    name = choose(f"preset of {task_name}", name or get_facts(task_name).default_preset, presets(task_name))
    return tomllib.loads((PRESETS / task_name / f"{name}.toml").read_text("utf-8"))
