"""A training that is killed at random moments, or asked to stop, ends as one that ran without interruption."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
import tensorflow as tf
from small_runs import ROOT
from test_training import assert_same_run, run_files
from training_tasks import Averages, CharactersWithDropout, Images, PairsWithDropout

from kerasnets.run.directory import RunDirectory
from kerasnets.run.interrupts import Stopped
from kerasnets.training import loop, record
from kerasnets.training.strategies import make_strategy

TASKS = {task.__name__: task for task in (Averages, CharactersWithDropout, Images, PairsWithDropout)}
KILLS = int(os.environ.get("KERASNETS_KILLS", "2"))
# Processes that have imported TensorFlow; none has run an operation before it was forked.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tensorflow", "keras", "kerasnets.training.loop"])


def make_task(name):
    """-> a task of eight epochs, with a checkpoint after every step and a log entry after every second one."""
    loop.STEPS_BETWEEN_LOGS = 2
    task = TASKS[name](epochs=8)
    object.__setattr__(task.config.training, "checkpoint_seconds", 0)
    return task


def train(name, directory, kill_after=None):
    """Train; `kill_after` seconds after the first step the process kills itself."""
    if kill_after is not None:
        train_step, timer = loop.Loop.train_step, threading.Timer(kill_after, os.kill, (os.getpid(), signal.SIGKILL))

        def start_timer(*arguments):
            train_step(*arguments)
            if not timer.ident:
                timer.start()

        loop.Loop.train_step = start_timer
    return loop.train(make_task(name), make_strategy("one_device"), RunDirectory(directory))


def train_in_process(name, directory, kill_after):
    """-> the exit status."""
    process = PROCESSES.Process(target=train, args=(name, directory, kill_after))
    process.start()
    process.join(300)
    return process.exitcode


def assert_finished_like(directory, expected):
    assert (directory / "checkpoints" / "ckpt-24.index").exists()
    assert_same_run(run_files(directory), expected)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """-> {task: the result of a training without interruption}"""
    results = {}
    for name in TASKS:
        directory = tmp_path_factory.mktemp(name)
        train(name, directory)
        results[name] = run_files(directory)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_killed_training_resumes_bit_for_bit(name, uninterrupted, tmp_path):
    moments, kills = random.Random(name), 0
    while kills < KILLS:
        status = train_in_process(name, tmp_path, moments.uniform(0, 0.3))
        if status == 0:  # it was faster: kill the next one earlier, after a step or two
            (tmp_path / "log.jsonl").unlink()
            for path in (tmp_path / "checkpoints").iterdir():
                path.unlink()
            continue
        assert status == -signal.SIGKILL
        kills += 1
    train(name, tmp_path)
    assert_finished_like(tmp_path, uninterrupted[name])


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_the_first_signal_stops_training_with_a_checkpoint(moment, uninterrupted, tmp_path, monkeypatch, capfd):
    name, sent = "CharactersWithDropout", []

    def send_signal(function):
        def wrapped(*arguments):
            value = function(*arguments)
            sent.append(None)
            if len(sent) == 2:
                signal.raise_signal(signal.SIGTERM)
                assert moment == "step"  # the signal ends a validation at once
            return value

        return wrapped

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        if moment == "step":
            patch.setattr(loop.Loop, "train_step", send_signal(loop.Loop.train_step))
        else:
            patch.setattr(TASKS[name], "validate", send_signal(TASKS[name].validate))
        step = 2 if moment == "step" else 6
        with pytest.raises(Stopped, match=f"stopped after step {step} of 24; run the same command again to resume"):
            train(name, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopping after this step" in capfd.readouterr().err
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index"))[-1] == f"ckpt-{step}.index"
    train(name, tmp_path)
    assert f"resuming from step {step}" in capfd.readouterr().err
    assert_finished_like(tmp_path, uninterrupted[name])


@pytest.mark.slow
def test_sigterm_ends_the_program_with_status_0(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "kerasnets.train", "text_generation", "--preset", "quick", f"--run-dir={run}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step "):
            process.send_signal(signal.SIGTERM)
            break
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "run the same command again to resume" in errors
    assert list((run / "checkpoints").glob("ckpt-*.index")) and not (run / "metrics.json").exists()


def test_a_second_signal_interrupts_at_once(tmp_path, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(loop.Loop, "train_step", interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background processes ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train("Images", tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_checkpoints_follow_the_clock(tmp_path, monkeypatch):
    times, saved = iter(range(0, 10**6, 100)), []

    def save(self, step, state):
        saved.append(step)
        self.save_time = clock()

    def clock():
        return next(times)

    monkeypatch.setattr(record.Record, "save", save)
    monkeypatch.setattr(record, "time", type("Time", (), {"monotonic": staticmethod(clock)}))
    task = TASKS["Images"](epochs=1, checkpoint_seconds=150)
    task.steps_per_epoch = 7
    loop.train(task, make_strategy("one_device"), RunDirectory(tmp_path))
    assert saved == [2, 4, 6, 7]


def test_a_failed_save_ends_training_and_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    save, steps = tf.train.CheckpointManager.save, []

    def fail(self, checkpoint_number):
        steps.append(checkpoint_number)
        if len(steps) == 3:
            raise OSError(28, "No space left on device")
        return save(self, checkpoint_number=checkpoint_number)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        train("Images", tmp_path)
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-1", "ckpt-2"]
