"""The checkpoints of a run: `checkpoints/ckpt-STEP`, of which the newest two are kept."""

import shutil
import sys
from pathlib import Path

import tensorflow as tf

from kerasnets.checks import RequestError

KEPT = 2
# What reading a file that is cut off, changed or missing raises; TensorFlow keeps a checksum of every tensor.
DAMAGE = (tf.errors.OpError, AssertionError, IndexError, OSError, ValueError)


class Checkpoints:
    """Saves and restores a tf.train.Checkpoint.

    Which checkpoints there are is read from the names of their files, not from TensorFlow's list of them (the file
    `checkpoint`): without the list a run would begin anew without a word.
    """

    def __init__(self, directory: Path, checkpoint: tf.train.Checkpoint):
        self.directory, self.checkpoint = directory, checkpoint
        self.manager = tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=KEPT)
        for leftover in directory.glob("*_temp"):  # of a process that was ended while it saved
            shutil.rmtree(leftover, ignore_errors=True)

    def steps(self) -> list[int]:
        """-> the steps after which a checkpoint was saved, the newest first."""
        names = (path.stem.removeprefix("ckpt-") for path in self.directory.glob("ckpt-*.index"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def save(self, step: int) -> None:
        """Saves the state after `step`, and removes all but the newest ones."""
        try:
            self.manager.save(checkpoint_number=step)
        finally:
            shutil.rmtree(self.directory / f"ckpt-{step}_temp", ignore_errors=True)

    def restore(self) -> int:
        """Restores the newest checkpoint that is whole; -> its step, 0 if there is no checkpoint.

        Raises: RequestError if all of them are damaged.
        """
        steps = self.steps()
        for step in steps:
            try:
                self.checkpoint.restore(str(self.directory / f"ckpt-{step}")).assert_consumed()
                return step
            except DAMAGE:
                print(f"the checkpoint of step {step} is damaged or cut off.", file=sys.stderr)
        if steps:
            raise RequestError(
                f"no checkpoint in {self.directory} can be read; put one back from a copy, or remove this directory to "
                "train from the start."
            )
        return 0
