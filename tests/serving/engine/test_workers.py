"""Worker threads of the event loop."""

import asyncio
import threading

import pytest

from serving.engine.workers import Workers


def run(main):
    return asyncio.run(asyncio.wait_for(main(), 60))


def test_jobs_run_in_parallel_up_to_the_thread_limit():
    barrier = threading.Barrier(3)

    async def main():
        workers = Workers(asyncio.get_running_loop(), 3)
        await asyncio.gather(*(workers.submit(barrier.wait, 30) for _ in range(3)))
        threads = await asyncio.gather(*(workers.submit(threading.current_thread) for _ in range(50)))
        return {thread.name for thread in threads}

    assert len(run(main)) <= 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("x"), ValueError), (StopIteration(), RuntimeError), (SystemExit(3), RuntimeError)],
)
def test_job_exceptions_propagate(error, expected):
    def fail():
        raise error

    async def main():
        workers = Workers(asyncio.get_running_loop(), 1)
        with pytest.raises(expected):
            await workers.submit(fail)
        return await workers.submit(lambda: "continued")

    assert run(main) == "continued"


def test_cancelled_job_does_not_stop_the_worker():
    proceed = threading.Event()

    async def main():
        workers = Workers(asyncio.get_running_loop(), 1)
        cancelled = workers.submit(proceed.wait, 30)
        cancelled.cancel()
        proceed.set()
        return await workers.submit(lambda: "continued")

    assert run(main) == "continued"
