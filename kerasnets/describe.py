"""`python -m kerasnets.describe RUN_DIR_OR_PRESET`: print a network's layers, parameters and multiply-adds."""

import dataclasses
from pathlib import Path
from typing import Any

from kerasnets.checks import RequestError, check
from kerasnets.command import Options, run, start_tensorflow
from kerasnets.config.run import Config
from kerasnets.run import config_file
from kerasnets.run.files import CONFIG, check_json
from kerasnets.tasks import TASKS, get_facts, make_task
from kerasnets.tasks.presets import load_preset, presets

DESCRIPTION = """Prints a row for each layer of a network: output shape, parameters, multiply-adds for one example
and receptive field; then compares the number of weights of each convolution with layers that share no
weights. A preset needs no data: the sizes of the presets' datasets are known."""


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.describe", DESCRIPTION)
    options.add(
        "network",
        metavar="RUN_DIR_OR_PRESET",
        help="output of `kerasnets.train`, or a preset: resnet20, or translation/quick if several tasks have it",
    )
    options.add(
        "--image-size",
        type=int,
        metavar="N",
        help="rows and columns of the images, for a preset (default: those of its dataset)",
    )
    options.add("--length", type=int, default=1, metavar="N", help="length of a sequence (default: 1)")
    args = options.parse(arguments)
    check(args.length >= 1, "length", args.length, "1 or more")
    print(describe(args.network, args.length, args.image_size))


def describe(network: str, length: int = 1, image_size: int | None = None) -> Any:
    """-> the description of a network, the path of a run directory or the name of a preset; reads no data."""
    directory = Path(network)
    if directory.is_dir():
        task_name, _, config = config_file.load(directory / CONFIG)
        if image_size is not None:
            raise RequestError(f"image_size is {image_size}; it is for presets, but {network} is a run directory.")
        check_json(directory, [get_facts(task_name).vocabulary_file])
    else:
        task_name, preset = find_preset(network)
        config = load_preset(task_name, preset)
        if image_size is not None:
            config = with_image_size(task_name, config, image_size)
    start_tensorflow()
    from kerasnets import models

    if directory.is_dir():
        model = make_task(task_name, config, directory).model()
    else:
        model = config.model.build(**TASKS[task_name].sizes(config))
    return models.describe(model, length)


def with_image_size(task_name: str, config: Config, image_size: int) -> Config:
    if "image_size" not in vars(config):
        raise RequestError(f"image_size is {image_size}; it is for images, but the preset is of {task_name}.")
    return dataclasses.replace(config, image_size=image_size)  # type: ignore[call-arg]


def find_preset(name: str) -> tuple[str, str]:
    """-> the task and the preset for TASK/NAME, or for a NAME that only one task has."""
    task_name, slash, preset = name.rpartition("/")
    matches = [task for task in TASKS if preset in presets(task) and (not slash or task == task_name)]
    if len(matches) == 1:
        return matches[0], preset
    if matches:
        raise RequestError(
            f"{name} is a preset of {len(matches)} tasks; choose {' or '.join(f'{task}/{preset}' for task in matches)}."
        )
    available = [f"{task}/{preset}" for task in TASKS for preset in presets(task)]
    raise RequestError(f"there is no run directory and no preset {name}; the presets are {', '.join(available)}.")


if __name__ == "__main__":
    run(main)
