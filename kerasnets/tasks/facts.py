"""The description of a task that needs neither its data nor TensorFlow; each task's `facts.py` contains one."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasnets.config.networks import NetworkOptions
from kerasnets.config.run import Config
from kerasnets.config.values import network_options

if TYPE_CHECKING:
    from kerasnets.tasks.protocol import Task


@dataclass(frozen=True)
class Facts:
    """The facts of a task.

    Attributes:
        name: the task's name on the command line, of its folder and of its presets' folder.
        config: its options; the type of the field `model` lists the networks that it can train, the default first.
        default_preset: the preset that training uses if none is named.
        make: a configuration and, for a trained model, the directory with `vocabulary_file` -> the task.
        sizes: a configuration -> arguments of `config.model.build`, for the datasets of the presets.
        vocabulary_file: name of the file with the classes or the vocabulary in a run directory.
        unit: unit in which splits are counted, in the plural.
        bundled: names of datasets that need no download.
        own_data: prefix of the path of a user's own data: "folder:" or "file:".
        evaluation_limit: number of units of the validation split that suffices to compare two sets of weights.
        intended_use, limits: texts of the model card, with names of `Task.card_values` in braces.
        conditions: {metric: how it is measured}, for the model card.
    """

    name: str
    config: type[Config]
    default_preset: str
    make: Callable[[Any, Path | None], Task]
    sizes: Callable[[Any], dict[str, Any]]
    vocabulary_file: str
    unit: str
    bundled: tuple[str, ...]
    own_data: str
    evaluation_limit: int
    intended_use: str
    limits: str
    conditions: Mapping[str, str]

    @property
    def networks(self) -> dict[str, type[NetworkOptions]]:
        """-> the options of the networks that the task can train, by name; the first is the default."""
        return network_options(typing.get_type_hints(self.config)["model"])
