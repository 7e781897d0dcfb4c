"""`python -m kerasnets.describe RUN_DIR_OR_PRESET`: print a network's layers, parameters and multiply-adds."""

import dataclasses
from pathlib import Path
from typing import Any

from kerasnets.checks import RequestError, check
from kerasnets.command import Options, run, start_tensorflow
from kerasnets.config.run import Config
from kerasnets.run import config_file
from kerasnets.run.files import CONFIG, check_json
from kerasnets.tasks import TASKS, facts_of, make_task
from kerasnets.tasks.presets import load_preset, presets

DESCRIPTION = """Prints a row for each layer of a network: the shape that comes out, parameters, multiply-adds for one
example and how much of the input one output sees; and how many weights a convolution saves against layers that share
none. A preset needs no data: the sizes that a network takes from its data set are known for the sets of the presets."""


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.describe", DESCRIPTION)
    what = "what `kerasnets.train` left, or a preset: resnet20, or translation/quick where several tasks have it"
    options.add("what", metavar="RUN_DIR_OR_PRESET", help=what)
    options.add("--image-size", type=int, metavar="N", help="of a preset: rows and columns (default: of its data set)")
    options.add("--length", type=int, default=1, metavar="N", help="positions of a sequence (default: 1)")
    given = options.parse(arguments)
    check(given.length >= 1, "length", given.length, "1 or more")
    print(describe(given.what, given.length, given.image_size))


def describe(what: str, length: int = 1, image_size: int | None = None) -> Any:
    """-> the description of the network of a run directory or a preset; reads no data."""
    directory = Path(what)
    if directory.is_dir():
        task_name, _, config = config_file.load(directory / CONFIG)
        if image_size is not None:
            raise RequestError(f"image_size is {image_size}; it is for presets, and {what} is a run.")
        check_json(directory, [facts_of(task_name).vocabulary_file])
    else:
        task_name, preset = find_preset(what)
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
        raise RequestError(f"image_size is {image_size}; it is for pictures, and the preset is of {task_name}.")
    return dataclasses.replace(config, image_size=image_size)  # type: ignore[call-arg]


def find_preset(name: str) -> tuple[str, str]:
    """-> the task and the preset for TASK/NAME, or for a NAME that only one task has."""
    task, slash, preset = name.rpartition("/")
    found = [known for known in TASKS if preset in presets(known)]
    if slash:
        found = [known for known in found if known == task]
    if len(found) == 1:
        return found[0], preset
    if found:
        raise RequestError(
            f"{name} is a preset of {len(found)} tasks; choose {' or '.join(f'{task}/{preset}' for task in found)}."
        )
    known = [f"{task}/{preset}" for task in TASKS for preset in presets(task)]
    raise RequestError(f"there is no run directory and no preset {name}; the presets are {', '.join(known)}.")


if __name__ == "__main__":
    run(main)
