"""`python -m kerasnets.evaluate RUN_DIR_OR_SAVED_MODEL`: score a model on a split of its data."""

import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from kerasnets.checks import choose
from kerasnets.command import Options, run
from kerasnets.loading import config_directory, is_saved_model, open_model
from kerasnets.run import fingerprint
from kerasnets.run.files import write, write_figure, write_json
from kerasnets.tasks import Task

DESCRIPTION = """Scores a model on a split of its dataset, and prints a table and the worst examples. Writes
evaluation-SPLIT.json, worst-SPLIT.md and pictures to the run directory. An exported SavedModel is scored
through its signatures, as a server would run it; nothing is written to it."""
SPLITS = ("train", "validation", "test")
WORST_PRINTED = 3


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.evaluate", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="output of `kerasnets.train` or `kerasnets.export`")
    options.add("--split", default="test", help=f"split to score: {', '.join(SPLITS)} (default: test)")
    options.add("--data-dir", metavar="DIR", help="directory of prepared TensorFlow Datasets, if it has moved")
    args = options.parse(arguments)
    metrics = evaluate(Path(args.path), args.split, args.data_dir)
    print(table(metrics))


def evaluate(path: Path, split: str = "test", data_dir: str | None = None) -> dict[str, Any]:
    """-> the metrics; if `path` is a run directory, they are also written to it, with pictures (`write_results`).

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
        write_results(path, task, metrics)
    return metrics


def write_results(directory: Path, task: Task, metrics: dict[str, Any]) -> None:
    """Write evaluation-SPLIT.json, the worst examples and the pictures into a run directory."""
    split = metrics["split"]
    write_json(directory / f"evaluation-{split}.json", metrics)
    if "worst_examples" in metrics:
        write(directory / f"worst-{split}.md", worst_page(metrics))
    for name, figure in task.evaluation_figures(metrics).items():
        write_figure(directory / f"{name}-{split}.png", figure)


def worst_page(metrics: dict[str, Any]) -> str:
    """-> the worst examples as Markdown; texts are indented, so that nothing in them is read as Markdown."""
    parts = [
        f"# Worst examples of the {metrics['split']} split of {metrics['dataset']}",
        *(
            f"## {number}\n\n{textwrap.indent(format_example(example), ' ' * 4, lambda line: True)}"
            for number, example in enumerate(metrics["worst_examples"], start=1)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def format_example(example: dict[str, Any]) -> str:
    """-> aligned lines, one for each key; the lines of a text are aligned too, and what a terminal might obey is
    escaped."""
    width = max(map(len, example)) + 2
    lines = []
    for name, value in example.items():
        first, *others = str(value).split("\n")
        lines += [f"{name:{width}}{first}", *(" " * width + line for line in others)]
    return "\n".join(escape(line).rstrip() for line in lines)


def escape(line: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def table(metrics: dict[str, Any]) -> str:
    """-> the metrics for the terminal: numbers, the confusion matrix or a table of each list, a few worst examples."""
    scalars = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    lines = [
        f"{name:20}{value:.4f}" if isinstance(value, float) else f"{name:20}{value}" for name, value in scalars.items()
    ]
    if "confused_pairs" in metrics:
        lines += ["", "most confused classes:", *columns(metrics["confused_pairs"])]
    elif "confusion_matrix" in metrics:
        lines += ["", "confusion matrix (rows: true classes, columns: predicted classes):", *confusion_table(metrics)]
    if "length_bins" in metrics:
        lines += ["", "by the length of the source in subwords:", *columns(metrics["length_bins"])]
    if "worst_examples" in metrics:
        lines += ["", "worst examples:"]
        lines += ["\n" + format_example(example) for example in metrics["worst_examples"][:WORST_PRINTED]]
    return "\n".join(lines)


def confusion_table(metrics: dict[str, Any]) -> list[str]:
    names, rows = metrics["classes"], metrics["confusion_matrix"]
    width = max(4, *(len(name) for name in names), len(str(max(map(max, rows))))) + 1
    wide = width + 6

    def line(first: str, cells: list[Any], last: str) -> str:
        return (f"{first:>{wide}}" + "".join(f"{cell:>{width}}" for cell in cells) + f"{last:>{wide}}").rstrip()

    return [
        line("", names, "recall"),
        *(
            line(name, row, f"{recall:.1%}")
            for name, row, recall in zip(names, rows, metrics["class_accuracy"], strict=True)
        ),
        line("precision", [f"{precision:.0%}" for precision in metrics["class_precision"]], ""),
    ]


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """-> the lines of a table; numbers are aligned at the right."""
    if not rows:
        return ["none"]
    cells = [list(rows[0])] + [
        [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [isinstance(value, int | float) for value in rows[0].values()]
    return [
        "  ".join(
            f"{cell:>{width}}" if number else f"{cell:{width}}"
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in cells
    ]


if __name__ == "__main__":
    run(main)
