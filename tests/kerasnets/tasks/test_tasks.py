"""What the signatures of all tasks have in common."""

import pytest
import tensorflow as tf
from rejected_requests import assert_rejected
from small_runs import TASKS

from kerasnets.run.examples import load


@pytest.mark.parametrize("task", TASKS)
def test_a_request_without_rows_is_rejected(task, load_run):
    loaded = load_run(task)
    for name, inputs in loaded.task.requests(load(loaded.directory / "examples.json")).items():
        none = {key: tf.zeros_like(tf.constant(value))[:0] for key, value in inputs.items()}
        assert_rejected(loaded.signatures[name], "has no rows; give at least one", **none)
