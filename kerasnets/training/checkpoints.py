"""The checkpoints of a run, `checkpoints/ckpt-STEP`; the newest two are kept."""

import shutil
import sys
from pathlib import Path

import tensorflow as tf

from kerasnets.checks import RequestError

MAX_TO_KEEP = 2
# Exceptions on reading a truncated, changed or missing file; TensorFlow stores a checksum of every tensor.
DAMAGE_ERRORS = (tf.errors.OpError, AssertionError, IndexError, OSError, ValueError)


class Checkpoints:
    """Saves and restores a tf.train.Checkpoint.

    It finds checkpoints by file name, not in TensorFlow's list of them (the file `checkpoint`): if the list were
    missing, a run would silently start from the beginning.
    """

    def __init__(self, directory: Path, checkpoint: tf.train.Checkpoint):
        self.directory, self.checkpoint = directory, checkpoint
        self.manager = tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=MAX_TO_KEEP)
        for leftover in directory.glob("*_temp"):  # of a process that was killed while saving
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """-> the steps of all checkpoints, newest first."""
        names = (path.stem.removeprefix("ckpt-") for path in self.directory.glob("ckpt-*.index"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def save(self, step: int) -> None:
        """Save the state after `step`, and remove all but the newest checkpoints."""
        try:
            self.manager.save(checkpoint_number=step)
        finally:
            shutil.rmtree(self.directory / f"ckpt-{step}_temp", ignore_errors=True)

    def restore(self) -> int:
        """Restore the newest undamaged checkpoint -> its step, 0 if there is no checkpoint.

        Raises: RequestError if all of them are damaged.
        """
        steps = self.steps()
        for step in steps:
            try:
                self.checkpoint.restore(str(self.directory / f"ckpt-{step}")).assert_consumed()
                return step
            except DAMAGE_ERRORS:
                print(f"the checkpoint of step {step} is damaged or cut off.", file=sys.stderr)
        if steps:
            raise RequestError(
                f"no checkpoint in {self.directory} can be read; put one back from a copy, or remove this directory to "
                "train from the start."
            )
        return 0
