"""The command line: names, defaults and messages of flags."""

import subprocess
import sys
from dataclasses import fields

import pytest
from serving_helpers import ROOT

from serving.errors import StatusError, UsageError
from serving.settings.flags import Flags, channel_arguments, check, cpus, parse, usage

# The defaults of tensorflow_model_server.
TENSORFLOW_SERVING_DEFAULTS = {
    "port": 8500,
    "rest_api_port": 0,
    "grpc_socket_path": "",
    "model_name": "default",
    "model_base_path": "",
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "file_system_poll_wait_seconds": 1,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "enable_batching": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "allow_version_labels_for_unavailable_models": False,
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "monitoring_config_file": "",
    "ssl_config_file": "",
    "platform_config_file": "",
    "tensorflow_session_config_file": "",
    "thread_pool_factory_config_file": "",
    "enable_signature_method_name_check": False,
    "rest_api_timeout_in_ms": 30_000,
    "rest_api_num_threads": 4 * cpus(),
    "grpc_max_threads": 4 * cpus(),
    "rest_api_enable_cors_support": False,
    "use_alts_credentials": False,
    "enable_grpc_healthcheck_service": False,
    "enable_serialization_as_tensor_content": False,
    "prefer_tflite_model": False,
    "grpc_channel_arguments": "",
    "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "saved_model_tags": "serve",
    "flush_filesystem_caches": True,
    "enable_profiler": True,
    "remove_unused_fields_from_bundle_metagraph": True,
    "per_process_gpu_memory_fraction": 0,
    "mixed_precision": "",
    "num_tflite_pools": cpus(),
    "num_tflite_interpreters_per_pool": 1,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "skip_initialize_tpu": False,
    "version": False,
}


def test_flags_of_tensorflow_serving_exist_with_its_defaults():
    own = {flag.name for flag in fields(Flags) if "own" in flag.metadata}
    assert {f.name: f.default for f in fields(Flags) if f.name not in own} == TENSORFLOW_SERVING_DEFAULTS
    assert len(TENSORFLOW_SERVING_DEFAULTS) == 48
    lines = {line.partition("=")[0].strip(): line for line in usage().splitlines()[2:]}
    assert {name for name, line in lines.items() if "[not in tensorflow_model_server]" in line} == {
        f"--{name}" for name in own
    }


def test_values_are_parsed():
    flags = parse(
        [
            "--port=1",
            "--models_dir=a=b",
            "--allow_config_reload=false",
            "--enable_model_warmup=false",
            "--rest_api_enable_cors_support",
            "--per_process_gpu_memory_fraction=0.5",
            "--file_system_poll_wait_seconds=-1",
            "--port=2",
            "--load_retry_interval_micros=3000000000",
        ]
    )
    assert (flags.port, flags.models_dir, flags.file_system_poll_wait_seconds) == (2, "a=b", -1)
    assert (flags.enable_model_warmup, flags.rest_api_enable_cors_support) == (False, True)
    assert not flags.allow_config_reload
    assert (flags.per_process_gpu_memory_fraction, flags.load_retry_interval_micros) == (0.5, 3_000_000_000)


@pytest.mark.parametrize(
    ("argument", "allowed"),
    [
        ("--port=x", "a whole number"),
        ("--port=", "a whole number"),
        ("--port=٣", "a whole number"),
        (f"--port={'9' * 5000}", "a whole number"),
        ("--enable_batching=yes", "true or false"),
        ("--drain_seconds=nan", "a number"),
    ],
)
def test_invalid_values_are_rejected(argument, allowed):
    with pytest.raises(UsageError, match=f"it must be {allowed}, for example --"):
        parse([argument])


@pytest.mark.parametrize("argument", ["--nonsense=1", "--port", "-port=1", "models", "--", "--Port=1"])
def test_unknown_arguments_are_printed_and_skipped(capsys, argument):
    assert parse([argument, "--port=7"]) == Flags(port=7)
    assert capsys.readouterr().err == f"unknown argument: {argument}\n" + usage()


def test_flags_without_effect_are_reported(capsys):
    assert parse(["--skip_initialize_tpu"]).skip_initialize_tpu
    assert capsys.readouterr().err == "--skip_initialize_tpu has no effect: TPUs are not used.\n"
    parse(["--port=1", "--enable_batching"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            Flags(port=0),
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
        ),
        (
            Flags(batching_parameters_file="f"),
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
        ),
        (
            Flags(
                tensorflow_session_parallelism=1,
                tensorflow_intra_op_parallelism=1,
                tensorflow_inter_op_parallelism=1,
            ),
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all.",
        ),
    ],
)
def test_contradictions_have_tensorflow_servings_messages(flags, text):
    with pytest.raises(StatusError) as caught:
        check(flags)
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize(
    "flags",
    [
        Flags(rest_api_enable_tls=True),
        Flags(drain_seconds=-1.0),
        Flags(max_request_bytes=-1),
        Flags(rest_api_max_request_bytes=-1),
        Flags(rest_api_max_values=-1),
        Flags(grpc_max_threads=0),
        Flags(grpc_channel_arguments="a=1,b"),
        Flags(rest_api_allowed_hosts="localhost:8501"),
    ],
)
def test_invalid_values_of_additional_flags(flags):
    with pytest.raises(UsageError, match="; it must be |requires a key"):
        check(flags)


def test_valid_combinations():
    check(Flags())
    check(Flags(port=0, grpc_socket_path="s", enable_batching=True, batching_parameters_file="f"))
    check(Flags(host="0.0.0.0", rest_api_allowed_hosts="models.example,::1"))
    check(Flags(platform_config_file="p", batching_parameters_file="f"))  # the platform file replaces the flags
    check(Flags(rest_api_enable_tls=True, ssl_config_file="f", tensorflow_session_parallelism=4))


@pytest.mark.parametrize(("milliseconds", "seconds"), [(30_000, 30.0), (1, 0.001), (0, None), (-1, None)])
def test_rest_timeout(milliseconds, seconds):
    flags = Flags(rest_api_timeout_in_ms=milliseconds)
    check(flags)
    assert flags.rest_seconds == seconds


def test_channel_arguments():
    flags = Flags(grpc_channel_arguments="grpc.max_connection_age_ms=2000,grpc.name=a,grpc.big=3000000000")
    assert channel_arguments(flags) == [
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.name", "a"),
        ("grpc.big", "3000000000"),
    ]
    assert channel_arguments(Flags()) == []


def test_server_does_not_start_with_contradictory_flags(tmp_path):
    command = [sys.executable, "-m", "serving", f"--model_base_path={tmp_path}", "--batching_parameters_file=f"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (
        255,
        "Failed to start server. Error: INVALID_ARGUMENT: server_options.batching_parameters_file is set without "
        "setting server_options.enable_batching to true.\n",
    )
