"""Command-line flags, with the names and the syntax of tensorflow_model_server: `--name=value`."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import Field, dataclass, field, fields
from typing import Any

from serving.errors import UsageError, invalid_argument
from serving.settings.hosts import allowed_hosts

INT32_MAX = 2**31 - 1
NOT_NEGATIVE = (
    "drain_seconds",
    "max_request_bytes",
    "max_concurrent_requests",
    "rest_api_max_request_bytes",
    "rest_api_max_values",
)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


THREADS = 4 * cpus()  # as in TensorFlow Serving: most threads wait for TensorFlow's own


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _own(default: Any, text: str) -> Any:
    """A flag that TensorFlow Serving does not have."""
    return field(default=default, metadata={"help": f"[not in tensorflow_model_server] {text}", "own": True})


def _unused(default: Any, reason: str) -> Any:
    """A flag of TensorFlow Serving that has no effect here."""
    return field(default=default, metadata={"help": f"[no effect] {reason}", "unused": reason})


@dataclass(frozen=True)
class Flags:
    """Every field is a flag; its type decides how the text after `=` is parsed."""

    port: int = _flag(8500, "TCP port for gRPC; 0 disables it.")
    grpc_socket_path: str = _flag("", "Path of a unix socket that gRPC listens on as well.")
    rest_api_port: int = _flag(0, "TCP port for HTTP/REST; 0 disables it. Must differ from --port.")
    rest_api_num_threads: int = _flag(THREADS, "HTTP/REST requests that are worked on at once.")
    rest_api_timeout_in_ms: int = _flag(
        30_000, "Longest time that an HTTP/REST request may take; 0 or negative: no limit."
    )
    rest_api_enable_cors_support: bool = _flag(False, "Add headers that let web pages of other origins call.")
    enable_batching: bool = _flag(False, "Run requests of one signature together, as one batch.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Let new labels point to versions that are not loaded; needed for labels in the first configuration."
    )
    batching_parameters_file: str = _flag("", "Text BatchingParameters; needs --enable_batching.")
    enable_per_model_batching_parameters: bool = _flag(
        False, "Batch as batching_params.pbtxt in a version's directory says, and only where there is one."
    )
    model_config_file: str = _flag("", "Text ModelServerConfig; overrides --model_name and --model_base_path.")
    model_config_file_poll_wait_seconds: int = _flag(
        0, "Interval between looks at --model_config_file for changes; 0 or negative: only at the start."
    )
    model_name: str = _flag("default", "Name of the single model; ignored with --model_config_file.")
    model_base_path: str = _flag("", "Directory with the single model's version directories.")
    num_load_threads: int = _flag(0, "Threads that load versions after the start; 0: one version after another.")
    num_unload_threads: int = _flag(0, "Threads that unload versions; 0: one version after another.")
    max_num_load_retries: int = _flag(5, "How often a version that fails to load is tried again.")
    load_retry_interval_micros: int = _flag(60_000_000, "Time between two attempts to load, in microseconds.")
    file_system_poll_wait_seconds: int = _flag(
        1, "Interval between looks for new versions; 0: only at the start; negative: never, nothing is loaded."
    )
    flush_filesystem_caches: bool = _unused(True, "the operating system decides what it keeps of files.")
    tensorflow_session_parallelism: int = _flag(0, "Threads for running a session; 0: TensorFlow decides.")
    tensorflow_session_config_file: str = _flag("", "Text ConfigProto for the sessions.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads inside one operation; 0: TensorFlow decides.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations that run at once; 0: TensorFlow decides.")
    use_alts_credentials: bool = _flag(False, "gRPC answers over Google's ALTS alone.")
    ssl_config_file: str = _flag("", "Text SSLConfig: gRPC answers over TLS alone, with its keys and certificates.")
    platform_config_file: str = _flag(
        "", "Text PlatformConfigMap; replaces what the flags say of sessions, batching, tags and warm-up."
    )
    per_process_gpu_memory_fraction: float = _flag(0.0, "Share of a GPU's memory to take; 0: TensorFlow decides.")
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the meta graph to load.")
    grpc_channel_arguments: str = _flag("", "Comma-separated gRPC settings, such as grpc.max_connection_age_ms=2000.")
    grpc_max_threads: int = _flag(THREADS, "gRPC requests that are worked on at once.")
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests before serving.")
    num_request_iterations_for_warmup: int = _flag(0, "How often each warm-up request is replayed; 0 means 1.")
    version: bool = _flag(False, "Print the versions and exit.")
    monitoring_config_file: str = _flag("", "Text MonitoringConfig; it can switch on Prometheus metrics.")
    remove_unused_fields_from_bundle_metagraph: bool = _unused(True, "no copy of the whole graph is kept.")
    prefer_tflite_model: bool = _flag(False, "Run model.tflite of a version's directory where there is one.")
    num_tflite_pools: int = _flag(cpus(), "Pools of TFLite interpreters for each version.")
    num_tflite_interpreters_per_pool: int = _flag(1, "TFLite interpreters in each pool.")
    enable_signature_method_name_check: bool = _flag(False, "Refuse signatures with an unknown method_name.")
    xla_cpu_compilation_enabled: bool = _unused(False, "XLA compiles what a SavedModel marks for it.")
    xla_gpu_compilation_enabled: bool = _unused(False, "XLA compiles what a SavedModel marks for it.")
    enable_profiler: bool = _flag(True, "Answer tensorflow.ProfilerService at the gRPC port.")
    thread_pool_factory_config_file: str = _unused("", "TensorFlow's own thread pools are used.")
    mixed_precision: str = _flag("", "bfloat16: let oneDNN calculate in it where that is safe.")
    skip_initialize_tpu: bool = _unused(False, "TPUs are not used.")
    enable_grpc_healthcheck_service: bool = _flag(False, "Answer grpc.health.v1.Health at the gRPC port.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Answer Predict with tensor_content.")

    host: str = _own("127.0.0.1", "Address that both ports bind to; 0.0.0.0 answers other machines too.")
    models_dir: str = _own("", "Serve every model found below this directory; watched for new ones.")
    drain_seconds: float = _own(5.0, "Time that requests in flight get to end after SIGTERM.")
    rest_api_extensions: bool = _own(
        False, "Answer GET /v1/models, /healthz, /readyz, the status page at / and POST /v1/models/MODEL:stream."
    )
    rest_api_allowed_hosts: str = _own(
        "",
        "Comma-separated hosts that HTTP/REST requests may be for; * allows any. Without it, on a loopback address "
        "localhost, 127.0.0.1, ::1 and --host, elsewhere any.",
    )
    rest_api_max_request_bytes: int = _own(
        16 * 1024 * 1024, "Largest body of an HTTP/REST request, if --max_request_bytes allows it; 0: as that says."
    )
    rest_api_max_values: int = _own(
        1_000_000, "Most values in the JSON of an HTTP/REST request: numbers, strings, lists, objects; 0: no limit."
    )
    rest_api_enable_tls: bool = _own(False, "HTTP/REST uses the certificates of --ssl_config_file too.")
    api_token_file: str = _own("", "Tokens, one a line: requests need `Authorization: Bearer TOKEN`.")
    allow_config_reload: bool = _own(
        True, "Answer HandleReloadConfigRequest, which loads any directory of this machine."
    )
    max_request_bytes: int = _own(0, "Largest request; 0: no limit.")
    max_concurrent_requests: int = _own(0, "Most requests at once, others are refused; 0: no limit.")
    access_log_file: str = _own("", "Write a line of JSON for every request; - is standard error.")
    help: bool = _own(False, "Print this text and exit.")

    @property
    def rest_seconds(self) -> float | None:
        """Timeout of an HTTP/REST request in seconds; None: no limit."""
        return self.rest_api_timeout_in_ms / 1000 if self.rest_api_timeout_in_ms > 0 else None


def usage() -> str:
    """Return the help text: all flags with type, default and meaning."""
    lines = ["usage: python -m serving", "Flags:"]
    for flag in fields(Flags):
        kind = "string" if flag.type == "str" else flag.type
        lines.append(f"\t{f'--{flag.name}={_example(flag)}':<50}\t{kind}\t{flag.metadata['help']}")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str]) -> Flags:
    """Parse a command line; the last value of a repeated flag counts. Report unknown flags and those without effect."""
    known = {flag.name: flag for flag in fields(Flags)}
    values: dict[str, Any] = {}
    unknown = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = known.get(name) if argument.startswith("--") else None
        if flag is None or (not equals and flag.type != "bool"):
            unknown.append(argument)
        else:
            values[name] = _read(flag, text if equals else "true")
    if unknown:
        names = "".join(f"unknown argument: {argument}\n" for argument in unknown)
        print(names + usage(), end="", file=sys.stderr)
    for name in values:
        if reason := known[name].metadata.get("unused"):
            print(f"--{name} has no effect: {reason}", file=sys.stderr)
    return Flags(**values)


def _read(flag: Field[Any], text: str) -> Any:
    if flag.type == "str":
        return text
    if flag.type == "bool" and text.lower() in ("true", "1", "false", "0"):
        return text.lower() in ("true", "1")
    if flag.type == "int" and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if flag.type == "float" and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]*)?", text):
        return float(text)
    allowed = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    raise UsageError(
        f"--{flag.name}={text} cannot be read: give {allowed[str(flag.type)]}, "
        f"for example --{flag.name}={_example(flag)}."
    )


def _example(flag: Field[Any]) -> str:
    if flag.type == "str":
        return f'"{flag.default}"'
    return str(flag.default).lower()


def check(flags: Flags) -> None:
    """Reject contradictory flags: StatusError with TensorFlow Serving's text, UsageError for flags that it lacks."""
    if flags.port == 0 and not flags.grpc_socket_path:
        raise invalid_argument(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    if not flags.platform_config_file:  # the file replaces these flags
        _check_session(flags)
    if flags.rest_api_enable_tls and not flags.ssl_config_file:
        raise UsageError("--rest_api_enable_tls needs keys and certificates: give --ssl_config_file=FILE too.")
    for name in NOT_NEGATIVE:
        if getattr(flags, name) < 0:
            raise UsageError(f"--{name}={getattr(flags, name)} is negative: give 0 or more.")
    for name in ("num_tflite_pools", "num_tflite_interpreters_per_pool", "rest_api_num_threads", "grpc_max_threads"):
        if getattr(flags, name) < 1:
            raise UsageError(f"--{name}={getattr(flags, name)} is too small: give 1 or more.")
    allowed_hosts(flags.host, flags.rest_api_allowed_hosts)
    channel_arguments(flags)


def _check_session(flags: Flags) -> None:
    if flags.batching_parameters_file and not flags.enable_batching:
        raise invalid_argument(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if (
        flags.tensorflow_intra_op_parallelism > 0
        and flags.tensorflow_inter_op_parallelism > 0
        and flags.tensorflow_session_parallelism > 0
    ):
        raise invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )


def channel_arguments(flags: Flags) -> list[tuple[str, int | str]]:
    """Return the (name, value) pairs of --grpc_channel_arguments; values that are int32 numbers become int."""
    pairs: list[tuple[str, int | str]] = []
    for item in flags.grpc_channel_arguments.split(",") if flags.grpc_channel_arguments else ():
        name, equals, text = item.partition("=")
        if not name or not equals:
            raise UsageError(
                f"--grpc_channel_arguments={flags.grpc_channel_arguments} cannot be read at {item!r}: "
                "give NAME=VALUE,NAME=VALUE."
            )
        is_int32 = re.fullmatch(r"-?[0-9]{1,18}", text) and abs(int(text)) <= INT32_MAX
        pairs.append((name, int(text) if is_int32 else text))
    return pairs
