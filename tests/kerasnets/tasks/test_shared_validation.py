"""Workers that share a validation have the sums of one process."""

import numpy as np
import pytest
from small_runs import TASKS, small_config

from kerasnets.tasks import make_task


class Worker:
    """Number `index` of `count` workers; keeps what it would add to the sum."""

    def __init__(self, index, count):
        self.index, self.count, self.sums = index, count, None

    def sum(self, array):
        self.sums = array
        return np.maximum(array, 1)  # a worker without examples must not divide by zero


@pytest.mark.parametrize("name", TASKS)
def test_the_sums_of_all_workers_are_those_of_one(name):
    task = make_task(name, small_config(name))
    model = task.model()
    sums = {}
    for count in (1, 3, 40):  # 40 are more than there are batches or parts of the text
        workers = [Worker(index, count) for index in range(count)]
        for worker in workers:
            task.validate(model, worker)
        sums[count] = np.sum([worker.sums for worker in workers], axis=0)
        assert any(worker.sums.any() for worker in workers[1:]) == (count > 1)
    np.testing.assert_allclose(sums[3], sums[1], rtol=1e-6)
    np.testing.assert_allclose(sums[40], sums[1], rtol=1e-6)
