"""Where the values of a configuration come from."""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from kerasnets.config.run import Config
from kerasnets.config.values import flatten, from_dict

ENVIRONMENT = {"data_dir": "TFDS_DATA_DIR"}  # variables that replace options without a value


class Setting(NamedTuple):
    """An option, its value as text, and its origin: "command line", "--resume-with", "preset NAME", a variable of the
    environment, or "default", of the option or of the network."""

    name: str
    value: str
    origin: str

    @property
    def is_chosen(self) -> bool:
        """Whether the user has chosen the value, other than by the preset."""
        return self.origin in ("command line", "--resume-with")


HEADER = Setting("option", "value", "from")


def trace_settings(
    config: Config,
    preset: str,
    preset_values: Mapping[str, Any],
    given: Collection[str] = (),
    resumed: Collection[str] = (),
) -> list[Setting]:
    """-> all options of a configuration, each with its origin.

    Args: preset: its name; preset_values: the values in its file; given: names of the options on the command line;
        resumed: names of those after --resume-with. Values that differ from the preset's count as given.
    """
    preset_config = from_dict(type(config), dict(preset_values))
    named = {name for name, value in preset_values.items() if not isinstance(value, dict)}
    named |= {f"training.{name}" for name in preset_values.get("training", {})}
    given = {*given}
    if config.model.kind == preset_config.model.kind:
        named |= {f"model.{name}" for name in preset_values.get("model", {})}
    else:  # the preset's values belong to another network
        preset_config = dataclasses.replace(preset_config, model=type(config.model)())
        given.add("model")
    values, before = with_network(config), with_network(preset_config)

    def origin(name: str) -> str:
        if name in resumed:
            return "--resume-with"
        if name in given or values[name] != before[name]:
            return "command line"
        if values[name] is None and os.environ.get(ENVIRONMENT.get(name, "")):
            return ENVIRONMENT[name]
        return f"preset {preset}" if name in named or (name == "model" and "model.kind" in named) else "default"

    origins = {name: origin(name) for name in values}
    values |= {name: os.environ[variable] for name, variable in ENVIRONMENT.items() if origins[name] == variable}
    return [Setting(name, to_text(value), origins[name]) for name, value in values.items()]


def with_network(config: Config) -> dict[str, Any]:
    """-> the flattened values of a configuration, and the name of the network as `model`."""
    values = flatten(config)
    network = {name: values.pop(name) for name in list(values) if name.startswith("model.")}
    return values | {"model": config.model.kind} | network


def to_text(value: Any) -> str:
    """-> a value as on the command line"""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def format_settings(settings: Collection[Setting]) -> str:
    """-> a table of options, values and origins."""
    widths = [max(len(setting[n]) for setting in settings) for n in range(2)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in settings)
