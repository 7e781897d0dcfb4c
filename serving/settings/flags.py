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
NON_NEGATIVE_FLAGS = (
    "drain_seconds",
    "max_request_bytes",
    "max_concurrent_requests",
    "rest_api_max_request_bytes",
    "rest_api_max_values",
)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


THREADS = 4 * cpus()  # as in TensorFlow Serving: most threads wait for those of TensorFlow


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _own_flag(default: Any, text: str) -> Any:
    """Return a field for a flag that TensorFlow Serving does not have."""
    return field(default=default, metadata={"help": f"[not in tensorflow_model_server] {text}", "own": True})


def _unused_flag(default: Any, reason: str) -> Any:
    """Return a field for a flag of TensorFlow Serving that has no effect here."""
    return field(default=default, metadata={"help": f"[no effect] {reason}", "unused": reason})


@dataclass(frozen=True)
class Flags:
    """Each field is a flag; its type determines how the text after `=` is parsed."""

    port: int = _flag(8500, "TCP port for gRPC; 0 disables it.")
    grpc_socket_path: str = _flag("", "Path of a unix socket that gRPC listens on as well.")
    rest_api_port: int = _flag(0, "TCP port for HTTP/REST; 0 disables it. Must differ from --port.")
    rest_api_num_threads: int = _flag(THREADS, "Worker threads for HTTP/REST requests; shared with gRPC.")
    rest_api_timeout_in_ms: int = _flag(
        30_000, "Timeout of an HTTP/REST request in milliseconds; 0 or negative: no timeout."
    )
    rest_api_enable_cors_support: bool = _flag(
        False, "Add CORS headers, so that web pages of any origin may send requests."
    )
    enable_batching: bool = _flag(False, "Combine concurrent requests for the same signature into one batch.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Allow new labels for versions that are not loaded; required for labels in the first configuration."
    )
    batching_parameters_file: str = _flag("", "File with a text-format BatchingParameters; requires --enable_batching.")
    enable_per_model_batching_parameters: bool = _flag(
        False,
        "Read the batching parameters of each version from batching_params.pbtxt in its directory; a version without "
        "the file is not batched. Requires --enable_batching.",
    )
    model_config_file: str = _flag(
        "", "File with a text-format ModelServerConfig; overrides --model_name and --model_base_path."
    )
    model_config_file_poll_wait_seconds: int = _flag(
        0, "Interval in seconds at which --model_config_file is read again; 0 or negative: read it only at startup."
    )
    model_name: str = _flag("default", "Name of the model in --model_base_path; ignored with --model_config_file.")
    model_base_path: str = _flag("", "Absolute path of the directory with the model's version directories.")
    num_load_threads: int = _flag(0, "Threads that load versions after startup; 0: load one version at a time.")
    num_unload_threads: int = _flag(0, "Threads that unload versions; 0: unload one version at a time.")
    max_num_load_retries: int = _flag(5, "Maximum number of retries after a version fails to load.")
    load_retry_interval_micros: int = _flag(
        60_000_000, "Interval between load retries in microseconds; negative: retry at once."
    )
    file_system_poll_wait_seconds: int = _flag(
        1,
        "Interval in seconds at which the server looks for new versions; 0: only at startup; negative: never, so that "
        "no model is loaded.",
    )
    flush_filesystem_caches: bool = _unused_flag(True, "the operating system manages its file cache.")
    tensorflow_session_parallelism: int = _flag(0, "Threads for running a session; 0: TensorFlow decides.")
    tensorflow_session_config_file: str = _flag("", "File with a text-format ConfigProto for the sessions.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads that one operation may use; 0: TensorFlow decides.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations that may run in parallel; 0: TensorFlow decides.")
    use_alts_credentials: bool = _flag(False, "Serve gRPC only over Google's ALTS.")
    ssl_config_file: str = _flag(
        "", "File with a text-format SSLConfig (key and certificates); gRPC is then served only over TLS."
    )
    platform_config_file: str = _flag(
        "", "File with a text-format PlatformConfigMap; replaces the flags for sessions, batching, tags and warm-up."
    )
    per_process_gpu_memory_fraction: float = _flag(
        0.0, "Fraction of each GPU's memory to allocate; 0: TensorFlow decides."
    )
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the meta graph to load.")
    grpc_channel_arguments: str = _flag(
        "", "Comma-separated channel arguments of gRPC, such as grpc.max_connection_age_ms=2000."
    )
    grpc_max_threads: int = _flag(THREADS, "Worker threads for gRPC requests; shared with HTTP/REST.")
    enable_model_warmup: bool = _flag(
        True, "Replay the requests in assets.extra/tf_serving_warmup_requests of a version before serving it."
    )
    num_request_iterations_for_warmup: int = _flag(0, "How many times to replay each warm-up request; 0 means 1.")
    version: bool = _flag(False, "Print the TensorFlow version and exit.")
    monitoring_config_file: str = _flag(
        "", "File with a text-format MonitoringConfig, which enables Prometheus metrics."
    )
    remove_unused_fields_from_bundle_metagraph: bool = _unused_flag(True, "the server does not keep the MetaGraphDef.")
    prefer_tflite_model: bool = _flag(
        False, "Load model.tflite from a version's directory if the file exists, instead of the SavedModel."
    )
    num_tflite_pools: int = _flag(cpus(), "Pools of TFLite interpreters for each version.")
    num_tflite_interpreters_per_pool: int = _flag(1, "TFLite interpreters in each pool.")
    enable_signature_method_name_check: bool = _flag(
        False, "Reject requests for signatures whose method_name does not fit the called method."
    )
    xla_cpu_compilation_enabled: bool = _unused_flag(
        False, "XLA compiles only functions that the SavedModel marks for it."
    )
    xla_gpu_compilation_enabled: bool = _unused_flag(
        False, "XLA compiles only functions that the SavedModel marks for it."
    )
    enable_profiler: bool = _flag(True, "Serve tensorflow.ProfilerService on the gRPC port.")
    thread_pool_factory_config_file: str = _unused_flag("", "TensorFlow's own thread pools are used.")
    mixed_precision: str = _flag("", "bfloat16: let oneDNN compute in bfloat16 where that is safe.")
    skip_initialize_tpu: bool = _unused_flag(False, "TPUs are not used.")
    enable_grpc_healthcheck_service: bool = _flag(False, "Serve grpc.health.v1.Health on the gRPC port.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Return the outputs of Predict as tensor_content.")

    host: str = _own_flag(
        "127.0.0.1", "Address that both ports listen on; 0.0.0.0 makes the server reachable from other machines."
    )
    models_dir: str = _own_flag(
        "", "Serve every model in this directory (NAME/VERSION/saved_model.pb), including those added later."
    )
    drain_seconds: float = _own_flag(5.0, "Seconds that requests in flight may take to finish after SIGTERM.")
    rest_api_extensions: bool = _own_flag(
        False, "Serve GET /v1/models, /healthz, /readyz, the status page at / and POST /v1/models/MODEL:stream."
    )
    rest_api_allowed_hosts: str = _own_flag(
        "",
        "Comma-separated host names that the Host header of HTTP/REST requests may contain; * allows any. By default: "
        "localhost, 127.0.0.1, ::1 and --host if --host is a loopback address, otherwise any.",
    )
    rest_api_max_request_bytes: int = _own_flag(
        16 * 1024 * 1024,
        "Maximum size of an HTTP/REST request body in bytes, at most --max_request_bytes; 0: the same as "
        "--max_request_bytes.",
    )
    rest_api_max_values: int = _own_flag(
        1_000_000,
        "Maximum number of JSON values (numbers, strings, lists, objects) in an HTTP/REST request; 0: no limit.",
    )
    rest_api_enable_tls: bool = _own_flag(False, "Serve HTTP/REST over TLS with the certificates of --ssl_config_file.")
    api_token_file: str = _own_flag(
        "", "File with one token per line; every request must then send `Authorization: Bearer TOKEN`."
    )
    allow_config_reload: bool = _own_flag(
        True, "Serve HandleReloadConfigRequest, with which clients can load models from any directory of this machine."
    )
    max_request_bytes: int = _own_flag(0, "Maximum size of a request in bytes; 0: no limit.")
    max_concurrent_requests: int = _own_flag(
        0, "Maximum number of concurrent requests; more are rejected; 0: no limit."
    )
    access_log_file: str = _own_flag(
        "", "File to which one line of JSON is written per request; - means standard error."
    )
    help: bool = _own_flag(False, "Print this text and exit.")

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
    """Parse a command line; the last value of a repeated flag wins. Report unknown flags and flags without effect."""
    flags_by_name = {flag.name: flag for flag in fields(Flags)}
    values: dict[str, Any] = {}
    unknown = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = flags_by_name.get(name) if argument.startswith("--") else None
        if flag is None or (not equals and flag.type != "bool"):
            unknown.append(argument)
        else:
            values[name] = _read(flag, text if equals else "true")
    if unknown:
        names = "".join(f"unknown argument: {argument}\n" for argument in unknown)
        print(names + usage(), end="", file=sys.stderr)
    for name in values:
        if reason := flags_by_name[name].metadata.get("unused"):
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
        f"--{flag.name} is {text}; it must be {allowed[str(flag.type)]}, for example --{flag.name}={_example(flag)}."
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
        raise UsageError("--rest_api_enable_tls requires a key and a certificate: set --ssl_config_file=FILE too.")
    for name in NON_NEGATIVE_FLAGS:
        if getattr(flags, name) < 0:
            raise UsageError(f"--{name} is {getattr(flags, name)}; it must be 0 or more.")
    for name in ("num_tflite_pools", "num_tflite_interpreters_per_pool", "rest_api_num_threads", "grpc_max_threads"):
        if getattr(flags, name) < 1:
            raise UsageError(f"--{name} is {getattr(flags, name)}; it must be 1 or more.")
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
                f"--grpc_channel_arguments is {flags.grpc_channel_arguments}; it must be a comma-separated list of "
                f"NAME=VALUE, which {item!r} is not."
            )
        is_int32 = re.fullmatch(r"-?[0-9]{1,18}", text) and abs(int(text)) <= INT32_MAX
        pairs.append((name, int(text) if is_int32 else text))
    return pairs
