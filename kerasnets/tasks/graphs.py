"""Graphs that a task makes of a model: one, however often it is asked for."""

import functools
from collections.abc import Callable
from typing import Any

import keras


def cached_per_model(make: Callable[[Any, keras.Model], Callable]) -> Callable[[Any, keras.Model], Callable]:
    """A method of a task, model -> graph function, that keeps what it has made until it is given another model."""
    name = f"_kept_by_{make.__name__}"

    @functools.wraps(make)
    def kept(task: Any, model: keras.Model) -> Callable:
        if getattr(task, name, (None,))[0] is not model:
            setattr(task, name, (model, make(task, model)))
        return getattr(task, name)[1]

    return kept
