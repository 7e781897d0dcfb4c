"""How a program ends: its status, and what it says."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from small_runs import ROOT

from kerasnets.checks import RequestError
from kerasnets.command import sentence
from kerasnets.run.interrupts import interrupts_deferred

# A program with what TensorFlow leaves behind: threads that still work and something that is run at the exit.
PROGRAM = """
import atexit, os, signal, sys, threading, time
from kerasnets.command import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
sys.modules["tensorflow"] = threading
atexit.register(print, "finalized")

def work():
    while True:
        time.sleep(0.001)

def program(arguments):
    for _ in range(3):
        threading.Thread(target=work).start()  # no daemons: Python would wait for them
    print("answer")
    try:
        if arguments:
            os.kill(os.getpid(), int(arguments[0]))
            time.sleep(60)
    finally:
        print("closed")

run(program)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, ""),
        ([str(int(signal.SIGINT))], 130, "interrupted\n"),
        ([str(int(signal.SIGTERM))], 143, "terminated\n"),
    ],
    ids=["end", "SIGINT", "SIGTERM"],
)
def test_a_program_ends_when_its_blocks_are_closed_and_waits_for_no_thread(arguments, status, message):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "answer\nclosed\n", message)


@pytest.fixture
def ctrl_c():
    """Ctrl-C is a KeyboardInterrupt, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_waits_for_code_that_would_swallow_it():
    passed = []

    def swallow():
        with interrupts_deferred():
            try:
                signal.raise_signal(signal.SIGINT)
            except:  # noqa: E722 (as in Keras)
                passed.append("swallowed")
            passed.append("block")
        passed.append("behind")

    with pytest.raises(KeyboardInterrupt):
        swallow()
    assert passed == ["block"]
    with interrupts_deferred():
        pass
    with pytest.raises(KeyboardInterrupt):  # the handler is the one from before
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/digits/log.jsonl"), " of runs/digits/log.jsonl"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ""),
        (RuntimeError("{{function_node SaveV2}} ckpt-3_temp; No space left on device [Op:SaveV2]"), ""),
    ],
)
def test_a_full_disk_is_a_sentence(error, where):
    message = f"the disk{where} is full, or its quota is used up; make room on it and give the same command again."
    assert sentence(error) == message


@pytest.mark.parametrize(
    ("raise_it", "status"),
    [
        ("raise checks.RequestError('do this')", 2),
        ("raise splits.DataError('no data')", 2),
        ("load_preset('translation', 'huge')", 2),
        ("values.from_dict(run_config.Training, {'epochs': 0})", 2),
        ("networks.ConvNetOptions(filters=(1, 1)).build(shape=(2, 2, 1), classes=1, characters=1)", 2),
        ("checks.check_counts(units=0)", 1),  # by whatever code: nobody asked for it
        ("raise KeyError('x')", 1),
    ],
)
def test_the_status_says_whether_the_request_was_wrong(raise_it, status):
    program = f"""
import sys
from kerasnets import checks, command
from kerasnets.config import networks, run as run_config, values
from kerasnets.data import splits
from kerasnets.tasks.presets import load_preset

def program(arguments):
    {raise_it}

command.run(program)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == status and "error: " in done.stderr, done.stderr


def test_other_errors_name_their_kind_unless_they_speak_for_themselves():
    assert sentence(RequestError("do this.")) == "do this."
    assert sentence(KeyError("x")) == "KeyError: 'x' (--debug shows where)"
