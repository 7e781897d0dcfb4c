"""What is known of a task without its data and without TensorFlow: a task's `facts.py` states it once."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasnets.config.networks import NetworkOptions
from kerasnets.config.run import Config
from kerasnets.config.values import kinds

if TYPE_CHECKING:
    from kerasnets.tasks.protocol import Task


@dataclass(frozen=True)
class Facts:
    """The facts of a task.

    Attributes:
        name: of the task on the command line, of its folder and of its presets' folder.
        config: its options; the type of the field `model` lists the networks that it can train, the default one first.
        default_preset: which preset a training starts from where none is named.
        make: a configuration and, where a model is trained already, the directory with `vocabulary_file` -> the task.
        sizes: a configuration -> what `config.model.build` takes, as the data of the presets have it.
        vocabulary_file: of a run directory, what the network takes from its data: the classes, or the vocabulary.
        unit: what splits are counted in, in the plural.
        bundled: names of data sets that need no network.
        own_data: what stands before the path of a user's own data: "folder:" or "file:".
        most_measured: how many units of the validation split are enough to compare two sets of weights.
        intended_use, limits: of the model card, with names of `Task.card_values` in braces.
        conditions: of the model card, {metric: how it is measured}.
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
    most_measured: int
    intended_use: str
    limits: str
    conditions: Mapping[str, str]

    @property
    def networks(self) -> dict[str, type[NetworkOptions]]:
        """-> the options of the networks that the task can train, by name; the first one is its default."""
        return kinds(typing.get_type_hints(self.config)["model"])
