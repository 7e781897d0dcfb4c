"""`python -m kerasnets.describe RUN_DIR_OR_PRESET`: the layers of a network, with their parameters and their work."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kerasnets import config as configuration
from kerasnets.command import Options, run, start_tensorflow
from kerasnets.config import Config
from kerasnets.config.checks import RequestError, check
from kerasnets.run import config_file
from kerasnets.run.files import check_json

DESCRIPTION = """Prints a row for each layer of a network: the shape that comes out, parameters, multiply-adds for one
example and how much of the input one output sees; and how many weights a convolution saves against layers that share
none. A preset needs no data: the sizes that a network takes from its data set are known for the sets of the presets."""
# What a network takes from its data: rows, columns and channels of pictures; characters of a text.
PICTURES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
OTHER_PICTURES = (32, 32, 3)
DIGITS = tuple("0123456789")
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = {"digits": DIGITS, "mnist": DIGITS, "cifar10": CIFAR_10}
CHARACTERS = {"pydocs": 104, "tiny_shakespeare": 66}
OTHER_CHARACTERS = 100


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.describe", DESCRIPTION)
    what = "what `kerasnets.train` left, or a preset: resnet20, or translation/quick where several tasks have it"
    options.add("what", metavar="RUN_DIR_OR_PRESET", help=what)
    options.add("--image-size", type=int, metavar="N", help="of a preset: rows and columns (default: of its data set)")
    options.add("--length", type=int, default=1, metavar="N", help="positions of a sequence (default: 1)")
    given = options.parse(arguments)
    check(given.length >= 1, "length", given.length, "1 or more")
    size = given.image_size
    check(size is None or size >= 1, "image_size", size, "1 or more")
    print(describe(given.what, given.length, size))


def describe(what: str, length: int = 1, image_size: int | None = None) -> Any:
    """-> the description of the network of a run directory or a preset; no data are read."""
    directory = Path(what)
    if directory.is_dir():
        task, _, config = config_file.load(directory / "config.toml")
        if image_size is not None:
            raise RequestError(f"image_size is {image_size}; it is for presets, and {what} is a run.")
        check_json(directory, task)
    else:
        task, name = find_preset(what)
        config = configuration.load_preset(task, name)
    start_tensorflow()
    from kerasnets import models
    from kerasnets.tasks import make_task

    if directory.is_dir():
        made = make_task(task, config, directory)
        return models.describe(made.model(), length)
    with tempfile.TemporaryDirectory() as stand_in:
        made = make_task(task, config, Path(stand_in))
        stand_in_for_data(made, config, Path(stand_in), image_size)
        return models.describe(made.model(), length)


def find_preset(name: str) -> tuple[str, str]:
    """-> the task and the name of a preset that is given as TASK/NAME, or as NAME where no other task has it."""
    task, slash, preset = name.rpartition("/")
    found = [known for known in configuration.TASKS if preset in configuration.presets(known)]
    if slash:
        found = [known for known in found if known == task]
    if len(found) == 1:
        return found[0], preset
    if found:
        raise RequestError(
            f"{name} is a preset of {len(found)} tasks; choose {' or '.join(f'{task}/{preset}' for task in found)}."
        )
    known = [f"{task}/{preset}" for task in configuration.TASKS for preset in configuration.presets(task)]
    raise RequestError(f"there is no run directory and no preset {name}; the presets are {', '.join(known)}.")


def stand_in_for_data(task: Any, config: Config, directory: Path, image_size: int | None) -> None:
    """Gives a task the sizes that it would find in its data."""
    if task.name == "image_classification":
        rows, columns, channels = PICTURES.get(config.dataset, OTHER_PICTURES)
        size = [image_size or rows, image_size or columns, channels]
        classes = CLASSES.get(config.dataset, DIGITS)
        (directory / "classes.json").write_text(json.dumps({"classes": classes, "shape": size}), "utf-8")
        return
    if image_size is not None:
        raise RequestError(f"image_size is {image_size}; it is for pictures, and the preset is of {task.name}.")
    characters = CHARACTERS.get(config.dataset, OTHER_CHARACTERS)
    task.vocabulary = SimpleNamespace(size=getattr(config, "vocabulary_size", characters))


if __name__ == "__main__":
    run(main)
