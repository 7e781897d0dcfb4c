"""Presets: tested configurations, `presets/TASK/NAME.toml`."""

import tomllib
from pathlib import Path

from kerasnets.checks import choose
from kerasnets.config.run import Config
from kerasnets.config.values import from_dict
from kerasnets.tasks import get_facts

PRESETS = Path(__file__).parents[1] / "presets"


def presets(task_name: str) -> list[str]:
    return sorted(path.stem for path in (PRESETS / task_name).glob("*.toml"))


def load_preset(task_name: str, name: str | None = None) -> Config:
    """-> the configuration of a preset (default: the task's default preset)."""
    facts = get_facts(task_name)
    name = choose(f"preset of {task_name}", name or facts.default_preset, presets(task_name))
    return from_dict(facts.config, tomllib.loads((PRESETS / task_name / f"{name}.toml").read_text("utf-8")))
