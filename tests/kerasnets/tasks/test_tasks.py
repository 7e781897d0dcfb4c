"""What the signatures of all tasks have in common."""

import pytest
import tensorflow as tf
from rejected_requests import assert_rejected
from small_runs import TASKS

from kerasnets.run.examples import load


@pytest.mark.parametrize("task", TASKS)
def test_a_request_without_rows_is_refused(task, load_run):
    opened = load_run(task)
    for name, inputs in opened.task.requests(load(opened.directory / "examples.json")).items():
        none = {key: tf.zeros_like(tf.constant(value))[:0] for key, value in inputs.items()}
        assert_rejected(opened.signatures[name], "has no rows; give at least one", **none)
