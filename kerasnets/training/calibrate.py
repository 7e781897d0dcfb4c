"""The last stage of training: fit the temperature of the model's probabilities (`kerasnets.calibration`)."""

import dataclasses
import json
import sys
from pathlib import Path

import keras

from kerasnets.calibration.diagram import draw_reliability
from kerasnets.calibration.temperature import FILE, HIGHEST, LOWEST, Calibration, fit
from kerasnets.run.files import write
from kerasnets.tasks.protocol import Task

DIAGRAM = "reliability.png"


def calibrate(task: Task, model: keras.Model, run_dir: Path) -> Calibration:
    """Fit the temperature on the validation split, and write calibration.json and reliability.png.

    `Task.validation_logits` is called again for each of three passes, so that only one batch is in memory at a time.

    Raises: RequestError if there are no examples; FloatingPointError for logits that are NaN or infinite.
    """
    calibration = fit(lambda: task.validation_logits(model))
    write(run_dir / FILE, json.dumps(dataclasses.asdict(calibration), indent=1) + "\n")
    draw_reliability(calibration, run_dir / DIAGRAM)
    print(
        f"temperature {calibration.temperature:.3f}: expected calibration error {calibration.ece_before:.4f} before, "
        f"{calibration.ece_after:.4f} after ({calibration.examples:,} validation examples)",
        file=sys.stderr,
    )
    if calibration.bounded:
        print(
            f"the best temperature lies outside {LOWEST} to {HIGHEST}; a larger validation split would give a better "
            "estimate.",
            file=sys.stderr,
        )
    return calibration
