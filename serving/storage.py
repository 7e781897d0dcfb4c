"""Which models and versions there should be: configuration files and version directories. No TensorFlow."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig

from serving.errors import StatusError, UsageError, invalid_argument
from serving.flags import Flags

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
INT64_MAX = 2**63 - 1
SAVED_MODEL_NAMES = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve: `policy` picks versions of `base_path`, `labels` names some of them."""

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: dict[str, int] = field(default_factory=dict)


def configured_models(flags: Flags) -> list[ModelConfig]:
    """The models that the flags name; with --models_dir those that are there now."""
    if flags.model_config_file:
        return read_config_file(flags.model_config_file)
    if flags.models_dir:
        return find_models(flags.models_dir) if os.path.isdir(flags.models_dir) else []
    if not flags.model_base_path:
        raise UsageError(
            "no model to serve: give --models_dir=DIR, --model_base_path=DIR (with --model_name=NAME) "
            "or --model_config_file=FILE."
        )
    models = [ModelConfig(flags.model_name, flags.model_base_path)]
    _check(models)
    return models


def read_config_file(path: str) -> list[ModelConfig]:
    """Models of a text-format ModelServerConfig."""
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(Path(path).read_text(), config)
    except OSError as error:
        raise StatusError("NOT_FOUND", f"{path}; {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        print(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}", file=sys.stderr)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from None
    if config.WhichOneof("config") != "model_config_list":
        raise invalid_argument("Only a model_config_list is supported in a ModelServerConfig")
    models = [
        ModelConfig(m.name, m.base_path, m.model_version_policy, dict(m.version_labels))
        for m in config.model_config_list.config
    ]
    _check(models)
    return models


def _check(models: list[ModelConfig]) -> None:
    names = set()
    for model in models:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if not os.path.isabs(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def find_models(directory: str) -> list[ModelConfig]:
    """Every sub-directory of `directory` that has a numeric version directory; OSError if it is missing."""
    with os.scandir(directory) as entries:
        paths = sorted(entry.path for entry in entries if entry.is_dir())
    return [ModelConfig(os.path.basename(path), os.path.abspath(path)) for path in paths if _has_version(path)]


def _has_version(path: str) -> bool:
    try:
        return bool(find_versions(path))
    except OSError:  # not readable, or removed just now
        return False


def find_versions(base_path: str) -> dict[int, str]:
    """{version: path} of every entry whose name is an int64; OSError if `base_path` is missing."""
    versions: dict[int, str] = {}
    for name in sorted(os.listdir(base_path)):
        if re.fullmatch(r"-?[0-9]+", name) and abs(int(name)) <= INT64_MAX:
            versions[int(name)] = os.path.join(base_path, name)  # of 1 and 001 the one that sorts last wins
    return versions


def aspired_versions(policy: VersionPolicy, present: Iterable[int]) -> set[int]:
    """Versions that should be loaded, of those that are present."""
    present = sorted(present)
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(present)
    if choice == "specific":
        return set(present) & set(policy.specific.versions)
    count = policy.latest.num_versions or 1
    return set(present[-count:])


def check_present(flags: Flags, models: list[ModelConfig]) -> None:
    """Refuse a start that could never serve: the original server would wait forever with its ports closed."""
    if flags.models_dir and not flags.model_config_file:
        if not os.path.isdir(flags.models_dir):
            raise UsageError(
                f"the models directory {flags.models_dir} does not exist: give --models_dir a directory "
                "that holds NAME/VERSION/saved_model.pb."
            )
        if not models:
            raise UsageError(
                f"the models directory {flags.models_dir} holds no model: put at least one "
                "SavedModel there as NAME/VERSION/, where VERSION is a number."
            )
    for model in models:
        _check_model(model)


def _check_model(model: ModelConfig) -> None:
    try:
        versions = find_versions(model.base_path)
    except OSError as error:
        raise UsageError(
            f"the directory {model.base_path} of model {model.name} cannot be read ({error.strerror}): "
            "give the base path of a model, which holds one SavedModel per numeric version directory."
        ) from None
    wanted_versions = aspired_versions(model.policy, versions)
    if not wanted_versions:
        wanted = "one of the configured versions" if versions else "a version directory such as 1/"
        raise UsageError(
            f"the directory {model.base_path} of model {model.name} holds nothing to serve: "
            f"put {wanted} with a SavedModel into it."
        )
    paths = [versions[number] for number in sorted(wanted_versions)]
    if not any(os.path.exists(os.path.join(path, name)) for path in paths for name in SAVED_MODEL_NAMES):
        raise UsageError(
            f"the version {paths[-1]} of model {model.name} holds no SavedModel: put saved_model.pb and what "
            "belongs to it there, or remove the directory."
        )
