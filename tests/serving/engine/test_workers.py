"""Threads beside the event loop."""

import asyncio
import threading

import pytest

from serving.engine.workers import Workers


def run(main):
    return asyncio.run(asyncio.wait_for(main(), 60))


def test_jobs_run_side_by_side_in_as_many_threads_as_there_may_be():
    meeting = threading.Barrier(3)

    async def main():
        workers = Workers(asyncio.get_running_loop(), 3)
        await asyncio.gather(*(workers.submit(meeting.wait, 30) for _ in range(3)))
        names = await asyncio.gather(*(workers.submit(threading.current_thread) for _ in range(50)))
        return {thread.name for thread in names}

    assert len(run(main)) <= 3


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError("x"), ValueError), (StopIteration(), RuntimeError), (SystemExit(3), RuntimeError)]
)
def test_whatever_a_job_raises_arrives(raised, seen):
    def fail():
        raise raised

    async def main():
        workers = Workers(asyncio.get_running_loop(), 1)
        with pytest.raises(seen):
            await workers.submit(fail)
        return await workers.submit(lambda: "goes on")

    assert run(main) == "goes on"


def test_a_job_that_nobody_waits_for_any_more():
    go = threading.Event()

    async def main():
        workers = Workers(asyncio.get_running_loop(), 1)
        gone = workers.submit(go.wait, 30)
        gone.cancel()
        go.set()
        return await workers.submit(lambda: "goes on")

    assert run(main) == "goes on"
