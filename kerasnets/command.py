"""Shared by the programs: command-line options from the configuration's dataclasses, error messages, exit status.

Exit status: 0 success, 1 failure, 2 wrong request.
"""

import argparse
import contextlib
import dataclasses
import errno
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from kerasnets.checks import RequestError
from kerasnets.config.origins import to_text
from kerasnets.config.run import Config
from kerasnets.config.values import flatten

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which Kubernetes, systemd and batch systems stop a process; handled like Ctrl-C."""


def run(program: Callable[[list[str]], None]) -> NoReturn:
    """Run a program with the command line's arguments; print an error as one sentence (with --debug a traceback)."""
    # TensorFlow logs its build and devices to standard error; a user's own setting has priority.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, terminate)
    arguments = sys.argv[1:]
    status = 0
    try:
        program([a for a in arguments if a != "--debug"])
    except KeyboardInterrupt as error:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # do not interrupt the exit
        terminated = isinstance(error, Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        status = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            print(f"error: {error_message(error)}", file=sys.stderr)
        status = 2 if is_wrong_request(error) else 1
    exit_process(status)


def terminate(*_: object) -> NoReturn:
    raise Terminated


def exit_process(status: int) -> NoReturn:
    """Exit the process, without Python's finalizers if TensorFlow is loaded.

    While finalizers run, threads of tf.data still build batches from Python objects; some processes crashed with a
    damaged heap. The program's `with` blocks have already closed and removed all resources.
    """
    if "tensorflow" not in sys.modules:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has closed the pipe
            stream.flush()
    os._exit(status)


def is_wrong_request(error: BaseException) -> bool:
    return isinstance(error, RequestError | argparse.ArgumentError)


def error_message(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if is_disk_full(error):
        where = f" of {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"the disk{where} is full, or its quota is exhausted; free some space and run the same command again."
    self_explanatory = is_wrong_request(error) or isinstance(error, OSError | FloatingPointError)
    return text if self_explanatory else f"{type(error).__name__}: {text} (--debug shows where)"


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full; TensorFlow and HDF5 say so only in the text of their errors."""
    return getattr(error, "errno", None) in DISK_FULL or any(os.strerror(number) in str(error) for number in DISK_FULL)


def start_tensorflow(with_devices: bool = True) -> None:
    """Import TensorFlow, which takes seconds, and configure Keras. TensorFlow's log output is shown only if the import
    fails.

    Args: with_devices: start the devices, too; False if a strategy for several machines will do it.
    """
    if "tensorflow" not in sys.modules:
        import_tensorflow(with_devices)
    set_up_keras()


def import_tensorflow(with_devices: bool) -> None:
    backend = os.environ.get("KERAS_BACKEND")
    if backend not in (None, "", "tensorflow"):
        print(f"KERAS_BACKEND is {backend}; this program needs tensorflow and uses it", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # it has priority over the user's keras.json
    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    with buffered_stderr() as print_buffer:
        try:
            import tensorflow as tf

            if with_devices:
                tf.config.list_logical_devices()
        except ValueError as error:  # TensorFlow imports Keras, which refuses a value
            file = os.path.join(os.environ.get("KERAS_HOME", "~/.keras"), "keras.json")
            raise RequestError(f"Keras cannot use {file}: {error}; correct the file or delete it.") from None
        except Exception:
            print_buffer()
            raise


def set_up_keras() -> None:
    """Reset Keras's defaults, which the user's keras.json may have changed, to those that the networks need."""
    import keras

    if keras.backend.backend() != "tensorflow":
        backend = keras.backend.backend()
        raise RequestError(f"Keras's backend is {backend}; it must be tensorflow: set KERAS_BACKEND=tensorflow.")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


@contextlib.contextmanager
def buffered_stderr() -> Iterator[Callable[[], None]]:
    """Buffer standard error, including output of native libraries; -> a function that prints the buffered output."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as buffer:

        def print_buffer() -> None:
            buffer.seek(0)
            os.write(stderr, buffer.read())

        os.dup2(buffer.fileno(), 2)
        try:
            yield print_buffer
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class Options:
    """The options of a program. jsonargparse derives a configuration's options from its dataclass: the doc strings of
    fields are the help, and names of nested fields contain a dot. Dashes join the words of a name."""

    def __init__(self, program: str, description: str, epilog: str = ""):
        import jsonargparse  # takes 0.1 s; callers of the programs' functions do not need it

        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

        class Parser(jsonargparse.ArgumentParser):
            def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
                return with_dashes(super().format_help(formatter))

        self.parser = Parser(
            prog=f"python -m {program}",
            description=description,
            epilog=epilog,
            exit_on_error=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
        self.config: Any = None

    def add(self, *names: str, **options: Any) -> None:
        self.parser.add_argument(*(underscores(n) if n.startswith("--") else n for n in names), **options)

    def add_config(self, config: Config, model_help: str = "") -> None:
        """Add options for all fields of a configuration, with its values as defaults.

        The `--model.` options are those of the configuration's network; `model_help` is the help of `--model`, for a
        program that has already read the network's name from it.
        """
        self.config = config
        self.parser.add_class_arguments(type(config), as_group=True, skip={"model"})
        self.parser.add_class_arguments(type(config.model), "model", as_group=True)
        self.parser.usage = "%(prog)s [options]"  # a list of them would fill the screen
        values = flatten(config)
        self.parser.set_defaults(values)
        for action in self.parser._actions:
            if action.dest in values:
                complete_help(action, values[action.dest])
            if (
                action.metavar == "CONFIG"
            ):  # jsonargparse's options for partial configuration files, which presets replace
                action.help = argparse.SUPPRESS
            if action.dest == "model" and model_help:
                action.help, action.metavar = model_help, "NAME"

    def parse(self, arguments: list[str]) -> Any:
        """-> a namespace; its `config` is the configuration, after `add_config`."""
        values = self.parser.parse_args([underscores(a) if a.startswith("--") else a for a in arguments])
        if self.config is not None:
            values.config = replace_fields(self.config, values.as_dict())
        return values


def complete_help(action: argparse.Action, default: Any) -> None:
    """Add the default to an option's help, and shorten the placeholder of its value: "--training.epochs EPOCHS"."""
    if default is not None and "(default" not in str(action.help):
        text = to_text(default).replace("%", "%%")  # argparse formats the help
        action.help = f"{action.help} Default: {text}."
    if action.metavar is None:
        action.metavar = action.dest.rpartition(".")[2].upper()


def replace_fields(config: Any, values: Mapping[str, Any]) -> Any:
    """-> a dataclass of the same class with these values, whose types jsonargparse has already converted."""
    fields = {name: values[name] for name in vars(config)}
    nested = {n: replace_fields(vars(config)[n], value) for n, value in fields.items() if isinstance(value, dict)}
    return dataclasses.replace(config, **fields | nested)


def option_names(arguments: list[str]) -> set[str]:
    """["--training.batch-size=64", "--seed", "1"] -> {"training.batch_size", "seed"}"""
    return {underscores(a)[2:].partition("=")[0] for a in arguments if a.startswith("--")}


def underscores(argument: str) -> str:
    """--data-dir=some-place -> --data_dir=some-place"""
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def with_dashes(text: str) -> str:
    return re.sub(r"--[a-z0-9_.]+", lambda name: name[0].replace("_", "-"), text)
