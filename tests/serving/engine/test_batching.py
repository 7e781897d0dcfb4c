"""Dynamic batching: which requests share a batch, when it runs, and which rows each request gets."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.batching import Scheduler
from serving.engine.deadline import Deadline
from serving.engine.workers import Workers
from serving.errors import StatusError
from serving.settings.configuration import Batching

FETCHES = ("y:0",)


class Model:
    """Doubles its input and records each batch. Fails on NaN; waits while `proceed` is not set."""

    def __init__(self):
        self.batches, self.proceed = [], threading.Event()
        self.proceed.set()

    def run(self, feeds, fetches, seconds):
        self.seconds = seconds
        assert fetches == FETCHES
        assert self.proceed.wait(30)
        self.batches.append(feeds["x:0"])
        if np.issubdtype(feeds["x:0"].dtype, np.floating) and np.isnan(feeds["x:0"]).any():
            raise StatusError("INVALID_ARGUMENT", "NaN")
        return [feeds["x:0"] + feeds["x:0"]]


def run_concurrently(model, requests, observe=None, occupy_thread=True, owner="m", **parameters):
    """Return the results or errors of requests that all wait at the same time."""

    async def main():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(**{"num_batch_threads": 1, **parameters}), loop, Workers(loop, 4), observe)
        if occupy_thread:  # this request keeps the only thread busy while the others arrive
            model.proceed.clear()
            first = scheduler.submit(
                "other", lambda *_: model.proceed.wait(30) and [], {"x:0": np.zeros(1)}, FETCHES, Deadline()
            )
        futures = []
        for x in requests:
            try:
                futures.append(scheduler.submit(owner, model.run, {"x:0": x}, FETCHES, Deadline()))
            except StatusError as error:
                futures.append(error)
        model.proceed.set()
        if occupy_thread:
            await first
        waiting = [future for future in futures if not isinstance(future, StatusError)]
        done = iter(await asyncio.gather(*waiting, return_exceptions=True))
        while scheduler._queues or scheduler._running:  # the scheduler must forget what has run
            await asyncio.sleep(0.001)
        return [future if isinstance(future, StatusError) else next(done) for future in futures]

    return asyncio.run(asyncio.wait_for(main(), 60))


def rows(*values):
    return np.array(values, np.float32)


def test_waiting_requests_run_as_one_batch():
    model = Model()
    results = run_concurrently(model, [rows(1), rows(2, 3), rows(4)])
    assert [result[0].tolist() for result in results] == [[2], [4, 6], [8]]
    assert [batch.tolist() for batch in model.batches] == [[1, 2, 3, 4]]


def test_batch_size_is_limited():
    model = Model()
    run_concurrently(model, [rows(1, 2), rows(3, 4), rows(5)], max_batch_size=3)
    assert [batch.tolist() for batch in model.batches] == [[1, 2], [3, 4, 5]]


def test_invalid_request_fails_alone():
    model = Model()
    results = run_concurrently(model, [rows(1), rows(np.nan), rows(3)])
    assert results[0][0].tolist() == [2] and results[2][0].tolist() == [6]
    assert isinstance(results[1], StatusError) and results[1].message == "NaN"
    assert [len(batch) for batch in model.batches] == [3, 1, 1, 1]


def test_batches_are_padded_with_the_first_row_to_an_allowed_size():
    model, observed = Model(), []
    results = run_concurrently(
        model, [rows(1, 2), rows(3)], observe=lambda *batch: observed.append(batch), max_batch_size=4,
        allowed_batch_sizes=(1, 4),
    )  # fmt: skip
    assert model.batches[0].tolist() == [1, 2, 3, 1]
    assert [result[0].tolist() for result in results] == [[2, 4], [6]]
    (_, *first), (waits, *second) = observed
    assert first == [1, 1, [1]] and second == [3, 4, [2, 1]] and len(waits) == 2 and min(waits) >= 0


def test_empty_request_is_not_padded():
    results = run_concurrently(Model(), [rows(), rows(1)], max_batch_size=4, allowed_batch_sizes=(4,))
    assert [result[0].tolist() for result in results] == [[], [2]]


def test_large_requests_are_split():
    model = Model()
    results = run_concurrently(
        model, [rows(1), rows(2, 3, 4, 5, 6)],
        enable_large_batch_splitting=True, max_batch_size=8, max_execution_batch_size=3,
    )  # fmt: skip
    assert results[1][0].tolist() == [4, 6, 8, 10, 12]
    assert [batch.tolist() for batch in model.batches] == [[1, 2, 3], [4, 5, 6]]


def test_rows_of_different_lengths_are_padded_if_enabled():
    model = Model()
    requests = [np.array([[1, 2, 3]]), np.array([[4]])]
    results = run_concurrently(model, requests, pad_variable_length_inputs=True)
    assert model.batches[0].tolist() == [[1, 2, 3], [4, 4, 4]]
    assert results[1][0].tolist() == [[8, 8, 8]]


def test_rows_of_different_lengths_run_separately_by_default():
    model = Model()
    results = run_concurrently(model, [np.array([[1, 2, 3]]), np.array([[4]])])
    assert [batch.tolist() for batch in model.batches] == [[[1, 2, 3]], [[4]]]
    assert results[1][0].tolist() == [[8]]


def test_strings_are_padded_with_strings():
    model = Model()
    run_concurrently(
        model, [np.array([[b"a\0"]], object), np.array([[b"b", b"c"]], object)], pad_variable_length_inputs=True
    )
    assert model.batches[0].tolist() == [[b"a\0", b"a\0"], [b"b", b"c"]]


@pytest.mark.parametrize(
    ("requests", "parameters", "code", "text"),
    [
        (
            [rows(1, 2, 3)],
            {"max_batch_size": 2, "max_execution_batch_size": 2},
            "INVALID_ARGUMENT",
            "Task size 3 is larger than maximum input batch size 2",
        ),
        (
            [np.float32(1)],
            {},
            "INVALID_ARGUMENT",
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            [rows(1), rows(2), rows(3)],
            {"max_batch_size": 1, "max_execution_batch_size": 1, "max_enqueued_batches": 2},
            "UNAVAILABLE",
            "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued and "
            "max_enqueued_batches is 2",
        ),
    ],
)
def test_rejected_requests(requests, parameters, code, text):
    results = run_concurrently(Model(), requests, **parameters)
    assert (results[-1].code, results[-1].message) == (code, text)
    assert all(isinstance(result, list) for result in results[:-1])


def test_all_row_shapes_share_the_queue_limit():
    results = run_concurrently(Model(), [np.ones((1, n)) for n in range(1, 6)], max_enqueued_batches=3)
    assert [isinstance(result, StatusError) for result in results] == [False] * 3 + [True] * 2


def test_inputs_of_different_sizes_are_rejected():
    async def main():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(), loop, Workers(loop, 1))
        with pytest.raises(StatusError, match="must have equal 0th-dimension size"):
            scheduler.submit("m", None, {"a": np.zeros(1), "b": np.zeros(2)}, FETCHES, Deadline())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("output", "text"),
    [(np.float32(0), "Batched output tensor has 0 dimensions"), (np.zeros(7), "0th dimension does not equal the sum")],
)
def test_outputs_that_cannot_be_split(output, text):
    class Constant(Model):
        def run(self, feeds, fetches, seconds):
            return [output]

    alone, pair = run_concurrently(Constant(), [rows(1)]), run_concurrently(Constant(), [rows(1), rows(2)])
    assert alone[0][0] is output, "a single request gets the output unchanged"
    assert all(isinstance(each, list) for each in pair), "requests whose outputs cannot be split run one by one"
    padded = run_concurrently(Constant(), [rows(1)], max_batch_size=4, allowed_batch_sizes=(4,))
    split = run_concurrently(
        Constant(), [rows(1, 2)], enable_large_batch_splitting=True, max_batch_size=4, max_execution_batch_size=1
    )
    for error in (padded[0], split[0]):
        assert error.code == "FAILED_PRECONDITION" and text in error.message


def test_open_batch_waits_for_more_tasks():
    model = Model()

    async def main():
        loop = asyncio.get_running_loop()
        parameters = Batching(batch_timeout_micros=600_000_000, num_batch_threads=1, max_batch_size=2)
        scheduler = Scheduler(parameters, loop, Workers(loop, 1))
        first = scheduler.submit("m", model.run, {"x:0": rows(1)}, FETCHES, Deadline())
        await asyncio.sleep(0.01)
        assert not model.batches
        second = scheduler.submit("m", model.run, {"x:0": rows(2)}, FETCHES, Deadline())
        await asyncio.gather(first, second)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert [batch.tolist() for batch in model.batches] == [[1, 2]]


def test_cancelled_request_does_not_delay_others():
    model = Model()

    async def main():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(num_batch_threads=1), loop, Workers(loop, 1))
        model.proceed.clear()
        running = scheduler.submit("m", model.run, {"x:0": rows(0)}, FETCHES, Deadline())
        cancelled = scheduler.submit("m", model.run, {"x:0": rows(1)}, FETCHES, Deadline())
        stays = scheduler.submit("m", model.run, {"x:0": rows(2)}, FETCHES, Deadline())
        cancelled.cancel()
        model.proceed.set()
        await running
        return await stays

    assert asyncio.run(asyncio.wait_for(main(), 60))[0].tolist() == [4]


def test_cancelled_and_late_requests_are_not_run():
    model = Model()

    async def main():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(num_batch_threads=1), loop, Workers(loop, 1))
        model.proceed.clear()
        running = scheduler.submit("m", model.run, {"x:0": rows(0)}, FETCHES, Deadline())
        cancelled, late, stays = Deadline(), Deadline(0.01), Deadline()
        futures = [
            scheduler.submit("m", model.run, {"x:0": rows(i)}, FETCHES, deadline)
            for i, deadline in enumerate((cancelled, late, stays))
        ]
        cancelled.cancelled = True
        await asyncio.sleep(0.02)
        model.proceed.set()
        await running
        return await asyncio.gather(*futures, return_exceptions=True)

    *errors, (doubled,) = asyncio.run(asyncio.wait_for(main(), 60))
    assert [error.code for error in errors] == ["DEADLINE_EXCEEDED"] * 2
    assert doubled.tolist() == [4]
    assert [batch.tolist() for batch in model.batches] == [[0], [2]]


@pytest.mark.parametrize(("timeouts", "lower", "upper"), [((5, 60, 9), 30, 60), ((5, None), None, None)])
def test_batch_has_the_latest_deadline(timeouts, lower, upper):
    model = Model()

    async def main():
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(Batching(batch_timeout_micros=50_000, num_batch_threads=1), loop, Workers(loop, 1))
        await asyncio.gather(
            *(scheduler.submit("m", model.run, {"x:0": rows(1)}, FETCHES, Deadline(timeout)) for timeout in timeouts)
        )

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(model.batches) == 1
    assert model.seconds is None if lower is None else lower < model.seconds < upper


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    max_rows=st.integers(1, 12),
    split=st.booleans(),
    threads=st.integers(1, 3),
    invalid=st.sets(st.integers(0, 19)),
)
def test_each_request_gets_its_own_rows(sizes, max_rows, split, threads, invalid):
    """Results equal those of each request alone, however requests are batched."""
    requests, start = [], 0.0
    for index, size in enumerate(sizes):
        values = np.arange(start, start + size, dtype=np.float32)
        requests.append(np.where(index in invalid, np.nan, values).astype(np.float32))
        start += size
    model = Model()
    results = run_concurrently(
        model,
        requests,
        occupy_thread=False,
        max_batch_size=max(max_rows, 9) if split else max_rows,
        max_execution_batch_size=max_rows,
        enable_large_batch_splitting=split,
        num_batch_threads=threads,
        max_enqueued_batches=1000,
    )
    for index, (x, result) in enumerate(zip(requests, results, strict=True)):
        if index in invalid or (not split and len(x) > max_rows):
            assert isinstance(result, StatusError) and result.code == "INVALID_ARGUMENT"
        else:
            assert result[0].tolist() == (2 * x).tolist()
    assert all(len(batch) <= max_rows for batch in model.batches)


def test_long_row_does_not_pad_many_short_rows(monkeypatch):
    monkeypatch.setattr("serving.engine.rows.MAX_PADDING_BYTES", 100)
    model = Model()
    requests = [np.zeros((1, 30), np.float32), np.zeros((10, 1), np.float32)]
    results = run_concurrently(model, requests, pad_variable_length_inputs=True)
    assert [result[0].shape for result in results] == [(1, 30), (10, 1)]
    assert [batch.shape for batch in model.batches] == [(1, 30), (10, 1)]
    model = Model()
    texts = [np.array([[b"a" * 99, b"b"]], object), np.array([[b"c" * 99]], object)]
    run_concurrently(model, texts, pad_variable_length_inputs=True)
    assert [batch.shape for batch in model.batches] == [(1, 2), (1, 1)]


def test_large_rows_are_not_repeated_as_padding(monkeypatch):
    monkeypatch.setattr("serving.engine.rows.MAX_PADDING_BYTES", 1_000)
    sizes = {"max_batch_size": 4, "allowed_batch_sizes": (4,)}
    for small, large in [
        (np.zeros((1, 80), np.float32), np.zeros((1, 90), np.float32)),
        (np.array([b"a" * 260], object), np.array([b"a" * 280], object)),
    ]:
        model = Model()
        run_concurrently(model, [small], **sizes)
        run_concurrently(model, [large], **sizes)
        assert [len(batch) for batch in model.batches] == [4, 1]
