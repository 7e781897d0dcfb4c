"""Models and versions to serve, from configuration files and version directories. Does not import TensorFlow."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig

from serving.errors import StatusError, UsageError, invalid_argument
from serving.settings.configuration import read_file
from serving.settings.flags import Flags

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
ModelServerConfig: TypeAlias = model_server_config_pb2.ModelServerConfig
INT64_MAX = 2**63 - 1
SAVED_MODEL_NAMES = ("saved_model.pb", "saved_model.pbtxt")
TFLITE_NAME = "model.tflite"
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
PLATFORM = "tensorflow"
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve: `policy` selects versions of `base_path`, `labels` names some of them."""

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: dict[str, int] = field(default_factory=dict)
    platform: str = PLATFORM
    model_type: int = model_server_config_pb2.MODEL_TYPE_UNSPECIFIED  # deprecated alternative to `platform`
    logs_requests: bool = False


def configured_models(flags: Flags) -> list[ModelConfig]:
    """Return the models that the flags configure, checked; with --models_dir, the models in it now."""
    if flags.model_config_file:
        models = models_of(read_config_file(flags.model_config_file))
        if not flags.allow_version_labels_for_unavailable_models:
            for model in models:  # labels are checked before any version is loaded
                check_labels(model, available=())
        check_platforms(models)
        check_logging(models)
        return models
    if flags.models_dir:
        return find_models(flags.models_dir) if os.path.isdir(flags.models_dir) else []
    if not flags.model_base_path:
        raise UsageError(
            "no model to serve: set --models_dir=DIR, --model_base_path=DIR (with --model_name=NAME) "
            "or --model_config_file=FILE."
        )
    models = [ModelConfig(flags.model_name, flags.model_base_path)]
    _check_paths(models)
    return models


def read_config_file(path: str) -> ModelServerConfig:
    """Read a text-format ModelServerConfig."""
    return read_file(path, ModelServerConfig())


def models_of(config: ModelServerConfig) -> list[ModelConfig]:
    """Return the models of a configuration, with names and paths checked; an empty list for an empty configuration."""
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("Only a model_config_list is supported in a ModelServerConfig")
    models = [
        ModelConfig(
            m.name,
            m.base_path,
            m.model_version_policy,
            dict(m.version_labels),
            m.model_platform,
            m.model_type,
            m.HasField("logging_config"),
        )
        for m in config.model_config_list.config
    ]
    names = set()
    for model in models:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    _check_paths(models)
    return models


def _check_paths(models: list[ModelConfig]) -> None:
    for model in models:
        if not os.path.isabs(model.base_path) and not URI.match(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def check_labels(model: ModelConfig, available: Iterable[int], movable: Iterable[str] = ()) -> None:
    """Check that labels point to `available` versions; labels in `movable` may point to any version."""
    for label, number in model.labels.items():
        if label not in movable and number not in available:
            raise StatusError(
                "FAILED_PRECONDITION",
                f"Request to assign label to version {number} of model {model.name}, "
                "which is not currently available for inference",
            )


def platform_of(model: ModelConfig) -> str:
    """Return the platform of a model, from `platform` or the deprecated `model_type`."""
    kind = "ModelServerConfig::model_type (deprecated)"
    if model.model_type == model_server_config_pb2.MODEL_TYPE_UNSPECIFIED:
        if not model.platform:
            raise invalid_argument(
                f"Illegal setting neither {kind} nor ModelServerConfig::model_platform, model name is {model.name}"
            )
        return model.platform
    if model.platform:
        raise invalid_argument(f"Illegal setting both {kind} and ModelServerConfig::model_platform.")
    if model.model_type != model_server_config_pb2.TENSORFLOW:
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return PLATFORM


def check_platforms(models: Iterable[ModelConfig]) -> None:
    """Check that the platform of every model is TensorFlow."""
    for model in models:
        platform = platform_of(model)
        if platform != PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def check_same_platforms(old: dict[str, ModelConfig], new: Iterable[ModelConfig]) -> None:
    """Check that no model changes its platform."""
    for model in new:
        if model.name in old:
            before, after = platform_of(old[model.name]), platform_of(model)
            if before != after:
                raise invalid_argument(
                    f"Illegal to change a model's platform. For model {model.name} platform was {before} "
                    f"and new platform requested is {after}"
                )


def check_logging(models: Iterable[ModelConfig]) -> None:
    """Reject models that log requests; the published TensorFlow Serving cannot log them either."""
    if any(model.logs_requests for model in models):
        raise invalid_argument("No request-logger-creator provided.")


def find_models(directory: str) -> list[ModelConfig]:
    """Return a model for every sub-directory with a numeric version directory; OSError if `directory` is missing."""
    with os.scandir(directory) as entries:
        # Skip hidden directories, for example a copy in progress.
        paths = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [ModelConfig(os.path.basename(path), os.path.abspath(path)) for path in paths if _has_version(path)]


def _has_version(path: str) -> bool:
    try:
        return bool(find_versions(path))
    except OSError:  # not readable, or just removed
        return False


def find_versions(base_path: str) -> dict[int, str]:
    """Return {version: path} of every entry whose name is an int64; OSError if `base_path` is missing."""
    return {number: paths[-1] for number, paths in _entries(base_path).items()}  # 1 takes precedence over 001


def _entries(base_path: str) -> dict[int, list[str]]:
    versions: dict[int, list[str]] = {}
    for name in sorted(os.listdir(base_path)):
        if re.fullmatch(r"-?[0-9]+", name) and abs(int(name)) <= INT64_MAX:
            versions.setdefault(int(name), []).append(os.path.join(base_path, name))
    return versions


def read_regular_file(path: str, max_bytes: int) -> bytes:
    """Return the first `max_bytes` of a file; OSError for other than regular files, where a read may block forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(descriptor)


def find_aspired(model: ModelConfig) -> tuple[dict[int, str], list[str]]:
    """Return {version: path} of the versions to load, and problems in the directory; OSError if it is missing."""
    entries = _entries(model.base_path)
    problems = [
        f"{' and '.join(paths)} are the same version of model {model.name}; {paths[-1]} is served"
        for paths in entries.values()
        if len(paths) > 1
    ]
    if not entries:
        problems.append(f"No versions of model {model.name} in {model.base_path}; they must be directories such as 1/")
    if model.policy.WhichOneof("policy_choice") == "specific":
        problems += [
            f"Version {number} of model {model.name}, required by its version policy, is not in {model.base_path}"
            for number in model.policy.specific.versions
            if number not in entries
        ]
    return {number: entries[number][-1] for number in aspired_versions(model.policy, entries)}, problems


def aspired_versions(policy: VersionPolicy, present: Iterable[int]) -> set[int]:
    """Return the versions to load, out of those present on disk."""
    present = sorted(present)
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(present)
    if choice == "specific":
        return set(present) & set(policy.specific.versions)
    count = policy.latest.num_versions or 1
    return set(present[-count:])


def check_models_exist(flags: Flags, models: list[ModelConfig]) -> None:
    """Raise UsageError without a model to serve; TensorFlow Serving would wait forever with its ports closed."""
    if flags.models_dir and not flags.model_config_file:
        if not os.path.isdir(flags.models_dir):
            raise UsageError(
                f"--models_dir is {flags.models_dir}, which does not exist; it must be a directory that contains "
                "NAME/VERSION/saved_model.pb."
            )
        if not models:
            raise UsageError(
                f"the models directory {flags.models_dir} contains no model: add at least one "
                "SavedModel as NAME/VERSION/, where VERSION is a number."
            )
    tflite = (TFLITE_NAME,) if flags.prefer_tflite_model or flags.platform_config_file else ()
    for model in models:
        _check_model(model, SAVED_MODEL_NAMES + tflite)


def _check_model(model: ModelConfig, names: tuple[str, ...]) -> None:
    try:
        versions = find_versions(model.base_path)
    except OSError as error:
        raise UsageError(
            f"the base path {model.base_path} of model {model.name} cannot be read ({error.strerror}); it must be a "
            "directory with numbered version directories, each with one SavedModel."
        ) from None
    aspired = aspired_versions(model.policy, versions)
    if not aspired:
        missing = "one of the configured versions" if versions else "a version directory such as 1/"
        raise UsageError(
            f"the base path {model.base_path} of model {model.name} contains no version to serve: "
            f"add {missing} with a SavedModel."
        )
    paths = [versions[number] for number in sorted(aspired)]
    if not any(os.path.exists(os.path.join(path, name)) for path in paths for name in names):
        raise UsageError(
            f"the version {paths[-1]} of model {model.name} contains no SavedModel: add one (saved_model.pb and its "
            "variables), or remove the directory."
        )
