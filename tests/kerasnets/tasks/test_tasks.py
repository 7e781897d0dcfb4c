"""What the signatures of all tasks have in common."""

import pytest
import tensorflow as tf
from requests_refused import refused

from kerasnets.loading import open_model
from kerasnets.run.examples import load


@pytest.fixture(scope="module")
def opened(runs):
    return {task: open_model(run) for task, run in runs.items()}


def test_a_request_without_rows_is_refused(opened):
    for task in opened.values():
        for name, inputs in task.task.requests(load(task.directory / "examples.json")).items():
            none = {key: tf.zeros_like(tf.constant(value))[:0] for key, value in inputs.items()}
            refused(task.signatures[name], "has no rows; give at least one", **none)
