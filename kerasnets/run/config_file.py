"""config.toml: the configuration that repeats a run."""

import tomllib
from pathlib import Path

import tomli_w

from kerasnets.checks import RequestError
from kerasnets.config.run import Config
from kerasnets.config.values import from_dict, to_dict
from kerasnets.run.files import write
from kerasnets.tasks import get_facts


def save(path: Path, task_name: str, preset: str, config: Config) -> None:
    write(path, tomli_w.dumps({"task": task_name, "preset": preset, **to_dict(config)}))


def load(path: Path) -> tuple[str, str, Config]:
    """-> task, preset and configuration of a run, from its config.toml."""
    try:
        text = path.read_text("utf-8")
        values = tomllib.loads(text)
        task_name, preset = values.pop("task"), values.pop("preset")
    except FileNotFoundError:
        raise RequestError(f"{path.parent} has no config.toml: give the directory of a training run.") from None
    except (tomllib.TOMLDecodeError, KeyError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not the configuration of a run ({error}).") from None
    facts = get_facts(task_name)
    # The network's table is the last one: defaults must not replace a part that is cut off.
    if not {"training", "model"} <= values.keys() or not text.endswith("\n"):
        raise RequestError(f"{path} is cut off; put it back from a copy, or train again with another --run-dir.")
    return task_name, preset, from_dict(facts.config, values)
