"""`python -m kerasnets.evaluate RUN_DIR_OR_SAVED_MODEL`: score a model on a split of its data."""

import sys
import time
from pathlib import Path
from typing import Any

from kerasnets.checks import choose
from kerasnets.command import Options, run
from kerasnets.loading import config_directory, is_saved_model, open_model
from kerasnets.run import fingerprint
from kerasnets.run.files import write_json

DESCRIPTION = """Scores a model on a split of its dataset, prints a table and writes evaluation-SPLIT.json to the run
directory. An exported SavedModel is scored through its signatures, as a server would run it."""
SPLITS = ("train", "validation", "test")


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.evaluate", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="output of `kerasnets.train` or `kerasnets.export`")
    options.add("--split", default="test", help=f"split to score: {', '.join(SPLITS)} (default: test)")
    options.add("--data-dir", metavar="DIR", help="directory of prepared TensorFlow Datasets, if it has moved")
    args = options.parse(arguments)
    metrics = evaluate(Path(args.path), args.split, args.data_dir)
    print(table(metrics))


def evaluate(path: Path, split: str = "test", data_dir: str | None = None) -> dict[str, Any]:
    """-> the metrics, also written to evaluation-SPLIT.json if `path` is a run directory.

    Changes of the split since the training are printed and recorded in "data_changes" of the metrics.

    Raises: RequestError if the model is missing or damaged, or if the data have changed so much that the score would
        be meaningless: see `fingerprint.check_scored`.
    """
    choose("split", split, SPLITS)
    loaded = open_model(path, data_dir)
    task = loaded.task
    start = time.monotonic()
    changes = fingerprint.check_scored(config_directory(path), task, split)
    if changes:
        print(f"{task.config.dataset} has changed since the training: {changes}.", file=sys.stderr)
    scores = task.evaluate(loaded.signatures, split, loaded.model)
    metrics: dict[str, Any] = {"task": task.name, "dataset": task.config.dataset, "split": split} | scores
    metrics["seconds"] = round(time.monotonic() - start, 1)
    if changes:
        metrics["data_changes"] = changes
    if not is_saved_model(path):
        write_json(path / f"evaluation-{split}.json", metrics)
    return metrics


def table(metrics: dict[str, Any]) -> str:
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    lines = [
        f"{name:20}{value:.4f}" if isinstance(value, float) else f"{name:20}{value}" for name, value in scalars.items()
    ]
    if "confusion_matrix" in metrics:
        lines += ["", "confusion matrix (rows: true classes, columns: predicted classes):"]
        names, rows = metrics["classes"], metrics["confusion_matrix"]
        width = max(4, *(len(name) for name in names), len(str(max(map(max, rows))))) + 1
        lines.append(" " * width + "".join(f"{name:>{width}}" for name in names) + f"{'accuracy':>{width + 4}}")
        for name, row, accuracy in zip(names, rows, metrics["class_accuracy"], strict=True):
            lines.append(
                f"{name:>{width}}" + "".join(f"{count:>{width}}" for count in row) + f"{accuracy:>{width + 4}.1%}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
