"""`python -m kerasnets.train TASK`: train a network and write a run directory."""

import contextlib
import dataclasses
import re
import sys
import tempfile
from argparse import SUPPRESS
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasnets.checks import RequestError, choose
from kerasnets.command import Options, option_names, run, start_tensorflow
from kerasnets.config.origins import HEADER, Setting, format_settings, trace_settings
from kerasnets.config.run import STRATEGIES, Config
from kerasnets.run import config_file, lock
from kerasnets.run.examples import request_body
from kerasnets.run.files import CONFIG, EXAMPLES, check_json, write
from kerasnets.run.interrupts import Stopped
from kerasnets.run.resume import RESUMABLE, apply_overrides, check_resumable, parse_overrides
from kerasnets.tasks import TASKS, Task, get_facts
from kerasnets.tasks.presets import load_preset, presets, read_preset
from kerasnets.training.cluster import Cluster, cluster_for

if TYPE_CHECKING:
    import tensorflow as tf

    from kerasnets.run.directory import RunDirectory

DESCRIPTION = """Trains a network and writes its weights, configuration and metrics to a run directory.
Run the same command again to resume an interrupted training from its newest checkpoint. The first Ctrl-C or SIGTERM
ends it after the current step, with a checkpoint."""


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if not a.startswith("-")]
    task_name = next((name for name in names if name in TASKS), next(iter(names), None))  # options may come before it
    if task_name is None:
        return print_overview(arguments)
    preset, _ = pop_option(arguments, "--preset")
    facts, defaults = get_facts(task_name), load_preset(task_name, preset)
    given = option_names(arguments)
    kind, arguments = pop_option(arguments, "--model")
    networks = facts.networks
    infix = ""  # in the name of the run directory
    if kind is not None and choose(f"network of {task_name}", kind, networks) != defaults.model.kind:
        infix = f"{kind}-"
        defaults = dataclasses.replace(defaults, model=networks[kind]())
    options = Options(f"kerasnets.train {task_name}", DESCRIPTION)
    options.add("task", help=SUPPRESS)
    options.add(
        "--preset",
        default=preset or facts.default_preset,
        help=f"configuration to start from: {', '.join(presets(task_name))} (default: {facts.default_preset}); other "
        "options override its values, which are the defaults below",
    )
    options.add(
        "--run-dir",
        metavar="DIR",
        help="directory of the run (default: runs/TASK/PRESET-DATASET, with --model runs/TASK/PRESET-MODEL-DATASET)",
    )
    options.add(
        "--strategy",
        default="auto",
        metavar="S",
        help=f"devices to train on: {', '.join(STRATEGIES)} (default: auto, all GPUs or the CPU; see docs/training.md)",
    )
    options.add(
        "--dry-run",
        action="store_true",
        help="print all options and their origins; run a few steps, a validation and an export; print the network's "
        "size, the estimated time of the whole run, and the memory",
    )
    options.add(
        "--resume-with",
        metavar="NAME=VALUE,...",
        help="resume an unfinished run from its last checkpoint with other values, for example after its loss became "
        f"NaN; config.toml and log.jsonl record the change. NAME: {', '.join(RESUMABLE)}",
    )
    options.add_config(
        defaults,
        f"network to train: {', '.join(networks)} (default: {defaults.model.kind}); the options below belong to it",
    )
    args = options.parse(arguments)
    default = Path("runs") / task_name / f"{args.preset}-{infix}{re.sub('[/:]', '_', args.config.dataset)}"
    run_dir, overrides = Path(args.run_dir or default), parse_overrides(args.resume_with or "")
    try:
        train(task_name, args.preset, args.config, run_dir, args.strategy, args.dry_run, overrides, given)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)


def print_overview(arguments: list[str]) -> None:
    if not {"-h", "--help"} & set(arguments):
        raise RequestError(f"name the task to train: {', '.join(TASKS)}.")
    print("usage: python -m kerasnets.train TASK [--preset P] [--dataset D] [--data-dir DIR] [--run-dir DIR]")
    print(f"       [--strategy S] [--dry-run] [any field of the configuration]\n\n{DESCRIPTION}\n\ntasks and presets:")
    for task_name, facts in TASKS.items():
        print(f"  {task_name:22}{', '.join(presets(task_name))} (default: {facts.default_preset})")
    print("\nnetworks (--model), the default first:")
    for task_name, facts in TASKS.items():
        print(f"  {task_name:22}{', '.join(facts.networks)}")
    print("\n`python -m kerasnets.train TASK --help` lists the options of a task.")


def pop_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """-> the value of an option, or None; the arguments without it. For options on which other options depend."""
    for n, argument in enumerate(arguments):
        if argument == name and n + 1 < len(arguments):
            return arguments[n + 1], arguments[:n] + arguments[n + 2 :]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2], arguments[:n] + arguments[n + 1 :]
    return None, arguments


def train(
    task_name: str,
    preset: str,
    config: Config,
    run_dir: Path,
    strategy: str = "auto",
    dry_run: bool = False,
    resume_with: Mapping[str, str] | None = None,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Train a task, or resume its run, and write all files of the run directory.

    Args: resume_with: new values for options in RESUMABLE of a run that has begun; given: names of the options on the
        command line, to print where values come from.
    Returns: the content of metrics.json; of a dry run, its table.
    Raises: Stopped after the first SIGINT or SIGTERM during the training. RequestError if the directory holds another
        run or one with other data, if one of its files is damaged, or if another training runs in it; DataError if the
        data cannot be read; FloatingPointError if the loss is not finite.
    """
    choose("strategy", strategy, STRATEGIES)
    resume_with = resume_with or {}
    config = apply_overrides(config, resume_with)
    settings = trace_settings(config, preset, read_preset(task_name, preset), given, resume_with)
    cluster = cluster_for(strategy)
    if dry_run:
        if cluster is not None:
            raise RequestError(
                "--dry-run tries one machine; give --strategy mirrored or one_device, without TF_CONFIG."
            )
        print(f"{format_settings([HEADER, *settings])}\n", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            task, run_directory = prepare(task_name, preset, config, Path(directory) / "run")
            from kerasnets.dry_run import try_out

            return try_out(task, run_directory, strategy, Path(directory) / "models")
    with contextlib.ExitStack() as stack:

        def open_this() -> OpenRun | dict[str, Any]:
            run = open_run(task_name, preset, config, run_dir, resume_with, stack)
            if isinstance(run, OpenRun):
                print_settings(preset, settings)
            return run

        if cluster is None:
            run = open_this()
            return run_training(preset, run, strategy) if isinstance(run, OpenRun) else run
        return train_on_workers(cluster, open_this, task_name, preset, config, strategy)


@dataclasses.dataclass
class OpenRun:
    """A run that is ready to be trained."""

    task: Task
    directory: "RunDirectory | None" = None
    """None on a worker that is not the chief."""
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options that differ from the earlier part of the run, {name: [before, after]}."""


def open_run(
    task_name: str,
    preset: str,
    config: Config,
    run_dir: Path,
    resume_with: Mapping[str, str],
    stack: contextlib.ExitStack,
) -> OpenRun | dict[str, Any]:
    """Read the data, and open a run directory or write its first files; `stack` keeps its lock.

    Returns: the run, or the content of metrics.json if it is finished.
    """
    metrics, changes = check_resumable(run_dir, task_name, preset, config, resume_with)
    if metrics:
        print(f"{run_dir} is finished; remove it or give another --run-dir to train again.", file=sys.stderr)
        return metrics
    if (run_dir / CONFIG).exists():  # otherwise `prepare` creates the directory, after all checks
        stack.enter_context(lock.locked(run_dir))
    task, run_directory = prepare(task_name, preset, config, run_dir, stack)
    if changes:
        run_directory.check_epochs(config.training.epochs)
        config_file.save(run_dir / CONFIG, task_name, preset, config)
    return OpenRun(task, run_directory, changes)


def print_settings(preset: str, settings: list[Setting]) -> None:
    """Print the options that differ from those of the preset."""
    chosen = [setting for setting in settings if setting.is_chosen]
    print(f"preset {preset}{', and:' if chosen else ''}", file=sys.stderr)
    if chosen:
        print(format_settings(chosen), file=sys.stderr)


def train_on_workers(
    cluster: Cluster,
    open_chief: Callable[[], OpenRun | dict[str, Any]],
    task_name: str,
    preset: str,
    config: Config,
    strategy: str,
) -> dict[str, Any]:
    """Train as one of several workers; -> the content of metrics.json on the chief."""
    start_tensorflow(with_devices=False)
    import numpy as np

    from kerasnets.tasks import make_task
    from kerasnets.training.agreement import agree, require_same
    from kerasnets.training.strategies import WorkerGroup, lost_worker_named, make_strategy

    distribution = make_strategy(strategy)  # before TensorFlow computes anything
    workers = WorkerGroup(distribution)
    with lost_worker_named(cluster):
        run = agree(workers, cluster, open_chief if workers.is_chief else lambda: OpenRun(make_task(task_name, config)))
        finished = workers.from_chief(np.array(isinstance(run, dict)))
        if isinstance(run, dict):
            return run
        if finished:
            return {}
        require_same(workers, cluster, run.task)
        metrics = run_training(preset, run, strategy, distribution)
        workers.sum(np.array(0))  # the others wait for the chief
    return metrics


def run_training(
    preset: str, run: OpenRun, strategy: str, distribution: "tf.distribute.Strategy | None" = None
) -> dict[str, Any]:
    """Train a prepared run to its end; -> the content of metrics.json, empty without a run directory."""
    from kerasnets.calibration.temperature import FILE
    from kerasnets.tasks.datasets import data_errors
    from kerasnets.training.calibrate import calibrate
    from kerasnets.training.loop import train as run_loop
    from kerasnets.training.precision import check_precision
    from kerasnets.training.progress import format_time
    from kerasnets.training.strategies import make_strategy

    task, run_directory = run.task, run.directory
    distribution = distribution or make_strategy(strategy)
    check_precision(task.config.training.precision, distribution)
    if run_directory is None:
        with data_errors():
            return run_loop(task, distribution, None)
    config, run_dir = task.config, run_directory.path
    metrics: dict[str, Any] = {"task": task.name, "preset": preset, "dataset": config.dataset, "seed": config.seed}
    print(f"training in {run_dir}; the first step builds the graph, which takes longer", file=sys.stderr)
    (run_dir / FILE).unlink(missing_ok=True)  # validation during training uses uncalibrated logits
    with data_errors():
        metrics |= run_loop(task, distribution, run_directory, run.changes)
    metrics["replicas"] = distribution.num_replicas_in_sync
    calibration = calibrate(task, run_directory.load_model(), run_dir)
    metrics["calibration"] = {name: getattr(calibration, name) for name in ("temperature", "ece_before", "ece_after")}
    run_directory.finish(metrics)
    best = "  ".join(f"{name} {value:.4f}" for name, value in metrics["best"].items() if name not in ("step", "epoch"))
    print(f"best validation, of epoch {metrics['best']['epoch']}: {best}", file=sys.stderr)
    time = format_time(metrics["seconds"])
    print(f"trained in {time}; next: python -m kerasnets.evaluate {run_dir}, or kerasnets.export", file=sys.stderr)
    return metrics


def prepare(
    task_name: str, preset: str, config: Config, run_dir: Path, stack: contextlib.ExitStack | None = None
) -> tuple[Task, "RunDirectory"]:
    """-> the task and its run directory; a new run's first files are written.

    Args: stack: keeps the lock of a new run directory.
    """
    start_tensorflow()
    from kerasnets.run import fingerprint
    from kerasnets.run.directory import RunDirectory
    from kerasnets.tasks import make_task

    run_exists = (run_dir / CONFIG).exists()
    if run_exists:
        check_json(run_dir, (get_facts(task_name).vocabulary_file, EXAMPLES))
    task = make_task(task_name, config, run_dir if run_exists else None)
    if run_exists:
        fingerprint.check_unchanged(run_dir, task)
    sizes = {name: size for name, size in task.split_sizes().items() if isinstance(size, int)}
    print(f"read {task.data_summary}", file=sys.stderr)
    print(", ".join(f"{name} {size:,}" for name, size in sizes.items()), file=sys.stderr)
    task.check()
    examples = "" if run_exists else request_body(task.examples())
    run_directory = RunDirectory(run_dir)
    if not run_exists:
        if stack is not None:
            stack.enter_context(lock.locked(run_dir))
        if (run_dir / CONFIG).exists():
            raise RequestError(
                f"another training has started in {run_dir}; give another --run-dir, or run this command again."
            )
        task.save(run_dir)
        write(run_dir / EXAMPLES, examples)
        fingerprint.write(run_dir, fingerprint.compute(task))
        config_file.save(run_dir / CONFIG, task_name, preset, config)  # last: a run exists once it has this file
    return task, run_directory


if __name__ == "__main__":
    run(main)
