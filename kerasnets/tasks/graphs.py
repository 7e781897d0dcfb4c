"""Cache for the graph functions that a task builds from a model."""

import functools
from collections.abc import Callable
from typing import Any

import keras


def cached_per_model(make: Callable[[Any, keras.Model], Callable]) -> Callable[[Any, keras.Model], Callable]:
    """Decorate a task's method, model -> graph function: cache its result until it is called with another model."""
    name = f"_kept_by_{make.__name__}"

    @functools.wraps(make)
    def kept(task: Any, model: keras.Model) -> Callable:
        if getattr(task, name, (None,))[0] is not model:
            setattr(task, name, (model, make(task, model)))
        return getattr(task, name)[1]

    return kept
