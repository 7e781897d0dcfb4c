"""Dynamic batching: concurrent requests run as one batch, as in TensorFlow Serving's batching session.

TensorFlow's own batching operation is not used. It batches calls of a function, but half of the SavedModels have no
functions: those of TensorFlow 1 are one flat graph. It cannot pad inputs of different lengths, needs a thread for each
waiting request, fails all requests of a batch if one fails, and does not report how full its batches are. Here the
event loop, where requests wait anyway, forms the batches without locks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.engine.deadline import Deadline
from serving.engine.rows import Arrays, batch_size, check_outputs, concatenate_rows, pad_to_common_shape, padding_fits
from serving.engine.workers import Workers
from serving.errors import StatusError, invalid_argument
from serving.settings.configuration import Batching

RunFunction = Callable[[Arrays, tuple[str, ...], float | None], list[np.ndarray]]  # (feeds, fetches, seconds)


Observer = Callable[[list[float], int, int, list[int]], None]
"""Called for each batch with the waiting times of its tasks in microseconds, its size, padded size and task sizes."""


@dataclass(eq=False)
class BatchTask:
    """Rows of one request, which run in a batch with rows of other requests."""

    feeds: Arrays
    size: int
    future: asyncio.Future[list[np.ndarray]]
    enqueued: float  # time.monotonic()
    deadline: Deadline


@dataclass(eq=False)
class Batch:
    """Tasks that run together. Accepts tasks while it is the last batch of its queue and not full."""

    opened: float
    tasks: list[BatchTask] = field(default_factory=list)
    size: int = 0


@dataclass(eq=False)
class Queue:
    """Waiting batches for one set of inputs and outputs of one version."""

    key: tuple[Any, ...]
    run: RunFunction
    fetches: tuple[str, ...]
    batches: deque[Batch] = field(default_factory=deque)


class Scheduler:
    """Batches requests and runs the batches, at most `num_batch_threads` at once over all queues.

    Everything except `_process` runs in the thread of the event loop.
    """

    def __init__(
        self, parameters: Batching, loop: asyncio.AbstractEventLoop, workers: Workers, observe: Observer | None = None
    ) -> None:
        self.parameters = parameters
        self._loop, self._workers, self._observe = loop, workers, observe
        self._timeout = parameters.batch_timeout_micros / 1e6
        # If large requests are split, their parts have at most max_execution_batch_size rows.
        self._max_rows = (
            parameters.max_execution_batch_size or parameters.max_batch_size
            if parameters.enable_large_batch_splitting
            else parameters.max_batch_size
        )
        self._queues: dict[tuple[Any, ...], Queue] = {}
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    def submit(
        self, owner: object, run: RunFunction, feeds: Arrays, fetches: tuple[str, ...], deadline: Deadline
    ) -> asyncio.Future[Any]:
        """Return a future of the arrays of `fetches`: those rows of the batch's results that belong to these feeds.

        Tasks share a batch if they have the same owner (a loaded version), feed names, and fetches.
        """
        size = batch_size(feeds)
        if not size:  # no rows to batch, and none to pad with
            return self._workers.submit(run, feeds, fetches, deadline.seconds_left())
        if size > self.parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size {self.parameters.max_batch_size}"
            )
        # Rows of different shapes need padding to share a batch.
        pads = self.parameters.pad_variable_length_inputs
        shapes = () if pads else tuple(array.shape[1:] for array in feeds.values())
        key = (owner, tuple(feeds), fetches, shapes)
        queue = self._queues.get(key) or Queue(key, run, fetches)
        sizes = self._split(queue, size)
        count = self._count_enqueued(queue)
        new = len(sizes) - (1 if sizes[0] <= self._free_rows(queue) else 0)
        if count + new > self.parameters.max_enqueued_batches:
            raise StatusError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{count} batches enqueued and max_enqueued_batches is {self.parameters.max_enqueued_batches}",
            )
        futures, start = [], 0
        for part in sizes:
            rows = {name: array[start : start + part] for name, array in feeds.items()} if len(sizes) > 1 else feeds
            futures.append(self._enqueue(queue, rows, part, deadline))
            start += part
        self._dispatch()
        if len(futures) == 1:
            return futures[0]
        return asyncio.ensure_future(_join(futures, sizes), loop=self._loop)

    def _free_rows(self, queue: Queue) -> int:
        """Return the number of rows that fit into the open batch."""
        return self._max_rows - queue.batches[-1].size if queue.batches else 0

    def _split(self, queue: Queue, size: int) -> list[int]:
        """Return the task sizes of a request: one size, or several if the request is split to fill batches."""
        if not self.parameters.enable_large_batch_splitting:
            return [size]
        sizes, free = [], self._free_rows(queue) or self._max_rows
        while size > free:
            sizes.append(free)
            size, free = size - free, self._max_rows
        return [*sizes, size]

    def _count_enqueued(self, queue: Queue) -> int:
        """Count the waiting batches of this queue's owner, feeds and fetches; all row shapes share one limit."""
        return sum(len(other.batches) for other in self._queues.values() if other.key[:3] == queue.key[:3])

    def _enqueue(self, queue: Queue, feeds: Arrays, size: int, deadline: Deadline) -> asyncio.Future[list[np.ndarray]]:
        now = time.monotonic()
        self._queues[queue.key] = queue
        if not queue.batches or size > self._free_rows(queue):
            queue.batches.append(Batch(now))
        batch = queue.batches[-1]
        task = BatchTask(feeds, size, self._loop.create_future(), now, deadline)
        batch.tasks.append(task)
        batch.size += size
        return task.future

    def _dispatch(self) -> None:
        """Run the due batches, oldest first: full ones and those that have waited for the batch timeout."""
        now = time.monotonic()
        while self._running < self.parameters.num_batch_threads:
            queues = [queue for queue in self._queues.values() if queue.batches and self._is_due(queue, now)]
            if not queues:
                break
            oldest = min(queues, key=lambda queue: queue.batches[0].opened)
            batch = oldest.batches.popleft()
            if not oldest.batches:
                del self._queues[oldest.key]  # shapes and versions change over time
            self._start(oldest, batch, now)
        self._set_timer(now)

    def _is_due(self, queue: Queue, now: float) -> bool:
        batch = queue.batches[0]
        full = batch.size >= self._max_rows or len(queue.batches) > 1
        return full or now - batch.opened >= self._timeout

    def _set_timer(self, now: float) -> None:
        """Schedule `_dispatch` for the next batch timeout; while all threads are busy, the end of a batch calls it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running < self.parameters.num_batch_threads:
            opened = [queue.batches[0].opened for queue in self._queues.values() if queue.batches]
            if opened:
                self._timer = self._loop.call_later(max(min(opened) + self._timeout - now, 0.0), self._dispatch)

    def _start(self, queue: Queue, batch: Batch, now: float) -> None:
        batch.tasks = [task for task in batch.tasks if _is_waiting(task)]
        batch.size = sum(task.size for task in batch.tasks)
        if not batch.tasks:
            return
        self._running += 1
        waits = [1e6 * (now - task.enqueued) for task in batch.tasks]
        done = self._workers.submit(self._process, queue, batch, waits)
        done.add_done_callback(lambda done: self._deliver(batch, done))

    def _deliver(self, batch: Batch, done: asyncio.Future[list[Any]]) -> None:
        self._running -= 1
        error = done.exception()
        outcomes = [error] * len(batch.tasks) if error else done.result()
        for task, outcome in zip(batch.tasks, outcomes, strict=True):
            if task.future.done():  # cancelled
                continue
            if isinstance(outcome, BaseException):
                task.future.set_exception(outcome)
            else:
                task.future.set_result(outcome)
        self._dispatch()

    def _process(self, queue: Queue, batch: Batch, waits: list[float]) -> list[Any]:
        """Return the results or the error of each task; runs in a worker thread.

        If the batch fails, its tasks run one by one, so that only an invalid request fails.
        """
        tasks = batch.tasks
        processed = next((n for n in self.parameters.allowed_batch_sizes if n >= batch.size), batch.size)
        if self._observe is not None:
            self._observe(waits, batch.size, processed, [task.size for task in tasks])
        try:
            return self._run_batch(queue, tasks, batch.size, processed)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
        outcomes: list[Any] = []
        for task in tasks:
            processed = next((n for n in self.parameters.allowed_batch_sizes if n >= task.size), task.size)
            try:
                outcomes += self._run_batch(queue, [task], task.size, processed)
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _run_batch(self, queue: Queue, tasks: list[BatchTask], size: int, processed: int) -> list[list[np.ndarray]]:
        """Run the tasks as one batch and return the results of each."""
        seconds = _seconds_left(tasks)
        if len(tasks) == 1 and processed == size:
            return [queue.run(tasks[0].feeds, queue.fetches, seconds)]
        rows = {name: [task.feeds[name] for task in tasks] for name in tasks[0].feeds}
        if self.parameters.pad_variable_length_inputs:
            rows = {name: pad_to_common_shape(arrays) for name, arrays in rows.items()}
        if not padding_fits([arrays[0] for arrays in rows.values()], processed - size):
            processed = size  # rows too large for padding; an unusual batch size only runs slower
        feeds = {name: concatenate_rows(arrays, processed - size) for name, arrays in rows.items()}
        results = queue.run(feeds, queue.fetches, seconds)
        check_outputs(results, processed)
        ends = np.cumsum([task.size for task in tasks]).tolist()
        return [[array[end - task.size : end] for array in results] for task, end in zip(tasks, ends, strict=True)]


def _is_waiting(task: BatchTask) -> bool:
    """Return whether a client still waits for the task; fail its future if the deadline has passed."""
    try:
        task.deadline.seconds_left()
    except StatusError as error:
        if not task.future.done():
            task.future.set_exception(error)
    return not task.future.done()


def _seconds_left(tasks: list[BatchTask]) -> float | None:
    """Return the seconds until the latest deadline, which is the batch's deadline; None if a task has no deadline."""
    ends = [task.deadline.end for task in tasks if task.deadline.end is not None]
    return max(0.001, max(ends) - time.monotonic()) if len(ends) == len(tasks) else None


async def _join(futures: list[asyncio.Future[list[np.ndarray]]], sizes: list[int]) -> list[np.ndarray]:
    """Concatenate the results of the parts of a request; `sizes` are the numbers of rows of the parts."""
    try:
        parts = await asyncio.gather(*futures)
    except BaseException:
        for future in futures:
            future.cancel()  # because the request has failed as a whole
        raise
    for part, size in zip(parts, sizes, strict=True):
        check_outputs(part, size)
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
