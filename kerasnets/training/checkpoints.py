"""The checkpoints of a run, `checkpoints/ckpt-STEP`; the newest two are kept."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerasnets.checks import RequestError

MAX_TO_KEEP = 2
# Exceptions on reading a truncated, changed or missing file; TensorFlow stores a checksum of every tensor.
DAMAGE_ERRORS = (tf.errors.OpError, AssertionError, IndexError, OSError, ValueError)

State = Mapping[str, Sequence[Any]]  # tensors, arrays or variables by group


class Checkpoints:
    """Writes and reads the state of a training.

    The state is copied at once and written by a thread, so that training does not wait for the disk. A damaged
    checkpoint is found before anything of it is used.

    Checkpoints are found by file name, not in TensorFlow's list of them (the file `checkpoint`): if the list were
    missing, a run would silently start from the beginning.
    """

    def __init__(self, directory: Path, state: State):
        """state: an example, which says how many values there are and of which shapes and dtypes."""
        self.directory = directory
        with tf.device("CPU:0"):
            self.copies = {name: [tf.Variable(tf.zeros_like(x)) for x in values] for name, values in state.items()}
        self.checkpoint = tf.train.Checkpoint(**self.copies)
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(directory), max_to_keep=MAX_TO_KEEP)
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None
        for leftover in directory.glob("*_temp"):  # of a process that was killed while saving
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """-> the steps of all checkpoints, newest first."""
        names = (path.stem.removeprefix("ckpt-") for path in self.directory.glob("ckpt-*.index"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def save(self, step: int, state: State) -> None:
        """Start to save the state after `step`; all but the newest checkpoints are removed afterwards.

        Raises: the error of the previous save, if it failed.
        """
        self.wait()
        for name, copies in self.copies.items():
            for copy, value in zip(copies, state[name], strict=True):
                copy.assign(value)
        self.pending = self.writer.submit(self._write, step)

    def wait(self) -> None:
        """Wait until everything is saved. Raises: the error of the last save, if it failed."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int) -> None:
        try:
            self.manager.save(checkpoint_number=step)
        finally:
            shutil.rmtree(self.directory / f"ckpt-{step}_temp", ignore_errors=True)

    def close(self) -> None:
        self.writer.shutdown()

    def restore(self) -> tuple[int, State | None]:
        """Read the newest undamaged checkpoint -> its step and state, or 0 and None without a checkpoint.

        Raises: RequestError if all of them are damaged.
        """
        steps = self.steps()
        for step in steps:
            try:
                self.checkpoint.restore(str(self.directory / f"ckpt-{step}")).assert_consumed()
                return step, self.copies
            except DAMAGE_ERRORS:
                print(f"the checkpoint of step {step} is damaged or cut off.", file=sys.stderr)
        if steps:
            raise RequestError(
                f"no checkpoint in {self.directory} can be read; put one back from a copy, or remove this directory to "
                "train from the start."
            )
        return 0, None

    def remove(self, step: int) -> None:
        """Remove a checkpoint that training must not resume from."""
        self.wait()
        for path in self.directory.glob(f"ckpt-{step}.*"):
            path.unlink()
