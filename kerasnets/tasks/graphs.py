"""Cache for the graph functions that a task builds from a model."""

import functools
from collections.abc import Callable
from typing import Any

import keras


def cached_per_model(build: Callable[[Any, keras.Model], Callable]) -> Callable[[Any, keras.Model], Callable]:
    """Decorate a task's method, model -> graph function: cache its result until it is called with another model."""
    attribute = f"_cached_{build.__name__}"

    @functools.wraps(build)
    def cached(task: Any, model: keras.Model) -> Callable:
        if getattr(task, attribute, (None,))[0] is not model:
            setattr(task, attribute, (model, build(task, model)))
        return getattr(task, attribute)[1]

    return cached
