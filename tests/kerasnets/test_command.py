"""Exit status and error messages of programs."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from small_runs import ROOT

from kerasnets.checks import RequestError
from kerasnets.command import error_message
from kerasnets.run.interrupts import interrupts_deferred

# As with TensorFlow: threads still work at the end of the program, and a function is registered with atexit.
PROGRAM = """
import atexit, os, signal, sys, threading, time
from kerasnets.command import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background processes ignore it
sys.modules["tensorflow"] = threading
atexit.register(print, "finalized")

def work():
    while True:
        time.sleep(0.001)

def program(arguments):
    for _ in range(3):
        threading.Thread(target=work).start()  # not daemons: Python would wait for them
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
def test_a_program_closes_its_blocks_and_exits_without_waiting_for_threads(arguments, status, message):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (status, "answer\nclosed\n", message)


@pytest.fixture
def ctrl_c():
    """Make Ctrl-C a KeyboardInterrupt, even if a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupts_are_deferred_in_code_that_would_swallow_them():
    steps = []

    def swallow_interrupts():
        with interrupts_deferred():
            try:
                signal.raise_signal(signal.SIGINT)
            except:  # noqa: E722 (as in Keras)
                steps.append("swallowed")
            steps.append("block")
        steps.append("after the block")

    with pytest.raises(KeyboardInterrupt):
        swallow_interrupts()
    assert steps == ["block"]
    with interrupts_deferred():
        pass
    with pytest.raises(KeyboardInterrupt):  # the former handler is restored
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/digits/log.jsonl"), " of runs/digits/log.jsonl"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ""),
        (RuntimeError("{{function_node SaveV2}} ckpt-3_temp; No space left on device [Op:SaveV2]"), ""),
    ],
)
def test_a_full_disk_has_its_own_message(error, where):
    message = f"the disk{where} is full, or its quota is exhausted; free some space and run the same command again."
    assert error_message(error) == message


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("raise checks.RequestError('do this')", 2),
        ("raise splits.DataError('no data')", 2),
        ("load_preset('translation', 'huge')", 2),
        ("values.from_dict(run_config.Training, {'epochs': 0})", 2),
        ("image_networks.ConvNetOptions(filters=(1, 1)).build(shape=(2, 2, 1), classes=1, characters=1)", 2),
        ("checks.check_counts(units=0)", 1),  # an error of the code, not of the request
        ("raise KeyError('x')", 1),
    ],
)
def test_status_2_means_a_wrong_request(statement, status):
    program = f"""
import sys
from kerasnets import checks, command
from kerasnets.config import image_networks, run as run_config, values
from kerasnets.data import splits
from kerasnets.tasks.presets import load_preset

def program(arguments):
    {statement}

command.run(program)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == status and "error: " in process.stderr, process.stderr


def test_unexpected_errors_are_printed_with_their_type():
    assert error_message(RequestError("do this.")) == "do this."
    assert error_message(KeyError("x")) == "KeyError: 'x' (--debug shows where)"
