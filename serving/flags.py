"""Command-line flags, named and written as tensorflow_model_server has them: `--name=value`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from typing import Any

from serving.errors import UsageError


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Flags:
    """Every field is a flag; its type decides how the text after `=` is read."""

    port: int = _flag(8500, "TCP port for gRPC; 0 disables it.")
    rest_api_port: int = _flag(0, "TCP port for HTTP/REST; 0 disables it. Must differ from --port.")
    host: str = _flag("127.0.0.1", "Address that both ports bind to; 0.0.0.0 answers other machines too.")
    grpc_socket_path: str = _flag("", "Path of a unix socket that gRPC listens on as well.")
    model_name: str = _flag("default", "Name of the single model; ignored with --model_config_file.")
    model_base_path: str = _flag("", "Directory with the single model's version directories.")
    model_config_file: str = _flag("", "Text ModelServerConfig; overrides --model_name and --model_base_path.")
    models_dir: str = _flag("", "Serve every model found below this directory; watched for new ones.")
    file_system_poll_wait_seconds: int = _flag(
        1, "Interval between looks for new versions; 0 or negative: only at the start."
    )
    allow_version_labels_for_unavailable_models: bool = _flag(
        False,
        "Let labels point to versions that are not loaded; needed for labels in the first configuration.",
    )
    max_num_load_retries: int = _flag(5, "How often a version that fails to load is tried again.")
    load_retry_interval_micros: int = _flag(60_000_000, "Time between two attempts to load, in microseconds.")
    num_load_threads: int = _flag(0, "Threads that load versions; 0: four per CPU, the same as at start-up.")
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests before serving.")
    num_request_iterations_for_warmup: int = _flag(0, "How often each warm-up request is replayed; 0 means 1.")
    enable_signature_method_name_check: bool = _flag(False, "Refuse signatures with an unknown method_name.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Answer Predict with tensor_content.")
    rest_api_timeout_in_ms: int = _flag(30_000, "Longest time that an HTTP/REST request may take.")
    rest_api_num_threads: int = _flag(0, "Threads for HTTP/REST requests; 0: four per CPU.")
    rest_api_enable_cors_support: bool = _flag(False, "Add headers that let web pages of other origins call.")
    grpc_max_threads: int = _flag(0, "Threads for gRPC requests; 0: four per CPU.")
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the meta graph to load.")
    tensorflow_session_parallelism: int = _flag(0, "Threads for running a session; 0: TensorFlow decides.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads inside one operation; 0: TensorFlow decides.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations that run at once; 0: TensorFlow decides.")
    version: bool = _flag(False, "Print the versions and exit.")
    help: bool = _flag(False, "Print this text and exit.")


def usage() -> str:
    """All flags with type, default and meaning."""
    lines = ["usage: python -m serving", "Flags:"]
    for flag in fields(Flags):
        default = str(flag.default).lower() if flag.type == "bool" else repr(flag.default).replace("'", '"')
        option, kind = f"--{flag.name}={default}", "string" if flag.type == "str" else flag.type
        lines.append(f"\t{option:<50}\t{kind}\t{flag.metadata['help']}")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str]) -> Flags:
    """Flags of a command line. What is unknown is printed and skipped, as the original server does."""
    kinds = {flag.name: flag.type for flag in fields(Flags)}
    values: dict[str, Any] = {}
    unknown = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in kinds or (not equals and kinds[name] != "bool"):
            unknown.append(argument)
        else:
            values[name] = _read(name, kinds[name], text if equals else "true")
    if unknown:
        print(
            "".join(f"unknown argument: {argument}\n" for argument in unknown) + usage(),
            end="",
            file=sys.stderr,
        )
    return Flags(**values)


def _read(name: str, kind: Any, text: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool" and text.lower() in ("true", "1", "false", "0"):
        return text.lower() in ("true", "1")
    if kind == "int" and text.removeprefix("-").isdecimal():
        return int(text)
    allowed = "true or false" if kind == "bool" else "a whole number"
    raise UsageError(f"--{name}={text} cannot be read: give {allowed}, for example --{name}={_example(name)}.")


def _example(name: str) -> str:
    return str(getattr(Flags, name)).lower()
