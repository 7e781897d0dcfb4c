"""Configuration files in protobuf's text format: valid contents, and messages for invalid ones."""

import dataclasses
import shutil
import ssl
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_helpers import ROOT

from serving.errors import StatusError
from serving.settings.configuration import (
    METRICS_PATH,
    Batching,
    Monitoring,
    new_message,
    parse_proto,
    read_batching,
    read_certificates,
    read_model_batching,
    read_monitoring,
)
from serving.settings.flags import Flags, cpus


@pytest.fixture
def write_file(tmp_path):
    """write_file(text) -> path of a file that contains it."""

    def write_file(text, name="file.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write_file


def status_error(function, *arguments):
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    return f"{caught.value.code}: {caught.value.message}"


def test_batching_parameters(write_file):
    text = """
        max_batch_size { value: 64 }  # examples
        batch_timeout_micros { value: 500 }
        max_enqueued_batches { value: 3 }
        num_batch_threads { value: 2 }
        thread_pool_name { value: "batches" }
        allowed_batch_sizes: 8
        allowed_batch_sizes: [32, 64]
        pad_variable_length_inputs: true
    """
    assert read_batching(write_file(text)) == Batching(64, 500, 3, 2, (8, 32, 64), True, False, 64)


def test_batching_defaults(write_file):
    assert read_batching(write_file("")) == Batching()
    assert dataclasses.asdict(Batching()) == {
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": cpus(),
        "allowed_batch_sizes": (),
        "pad_variable_length_inputs": False,
        "enable_large_batch_splitting": False,
        "max_execution_batch_size": 1000,
    }


def test_large_batch_splitting(write_file):
    text = "max_batch_size {{ value: 100 }} enable_large_batch_splitting {{ value: true }} {}"
    assert read_batching(write_file(text.format(""))).max_execution_batch_size == 100
    smaller = read_batching(write_file(text.format("max_execution_batch_size { value: 10 } allowed_batch_sizes: 10")))
    assert (smaller.max_batch_size, smaller.max_execution_batch_size) == (100, 10)
    assert status_error(
        read_batching, write_file(text.format("max_execution_batch_size { value: 20 } allowed_batch_sizes: 10"))
    )
    assert status_error(read_batching, write_file(text.format("max_execution_batch_size { value: 101 }")))
    # Without splitting it has no effect.
    assert read_batching(write_file("max_execution_batch_size { value: 2000 }")) == Batching()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 1000",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 8",
            "allowed_batch_sizes must be positive and increasing; was [8, 8]",
        ),
        ("max_batch_size { }", "input_batch_size_limit must be positive; was 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches must be positive; was 0"),
    ],
)
def test_invalid_batching_is_rejected(write_file, text, reason):
    assert status_error(read_batching, write_file(text)) == f"INVALID_ARGUMENT: {reason}"


@given(st.integers(1, 50), st.lists(st.integers(-5, 60), max_size=4))
def test_accepted_sizes_fit_every_batch(tmp_path_factory, largest, sizes):
    """Accepted sizes are increasing and end with the maximum, so that every batch fits into one."""
    path = tmp_path_factory.getbasetemp() / "sizes.txt"
    allowed = "".join(f"allowed_batch_sizes: {size} " for size in sizes)
    path.write_text(f"max_batch_size {{ value: {largest} }} {allowed}")
    valid = not sizes or (sizes == sorted(set(sizes)) and sizes[0] > 0 and sizes[-1] == largest)
    if valid:
        assert read_batching(str(path)).allowed_batch_sizes == tuple(sizes)
    else:
        assert "allowed_batch_sizes" in status_error(read_batching, str(path))


def test_batching_per_version(tmp_path, write_file):
    common = Batching(num_batch_threads=7, max_batch_size=3)
    assert read_model_batching(str(tmp_path), common) is None
    write_file("max_batch_size { value: 5 } num_batch_threads { value: 1 }", "batching_params.pbtxt")
    assert read_model_batching(str(tmp_path), common) == Batching(
        max_batch_size=5, max_execution_batch_size=5, num_batch_threads=7
    )


def test_monitoring(write_file):
    assert read_monitoring(write_file("")) == Monitoring(False, METRICS_PATH)
    assert read_monitoring(write_file("prometheus_config { enable: true }")) == Monitoring(True, METRICS_PATH)
    assert read_monitoring(write_file('prometheus_config { enable: true path: "/m" }')) == Monitoring(True, "/m")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "max_batch_size { value: 8 }\n  max_size: 3",
            '2:3: Message type "tensorflow.serving.BatchingParameters" has no field named "max_size".',
        ),
        ("max_batch_size { value: 8", '1:25: Expected "}".'),
        (b"\xff", "the file is not UTF-8 (byte 0)"),
    ],
)
def test_unparsable_text_is_rejected(write_file, capsys, text, line):
    path = write_file(text)
    assert status_error(read_batching, path) == f"INVALID_ARGUMENT: Invalid protobuf file: '{path}'"
    assert capsys.readouterr().err == f"Error parsing text-format tensorflow.serving.BatchingParameters: {line}\n"


def test_missing_files(tmp_path):
    path = f"{tmp_path}/none"
    assert status_error(read_monitoring, path) == f"NOT_FOUND: {path}; No such file or directory"
    assert status_error(read_monitoring, str(tmp_path)) == f"FAILED_PRECONDITION: {tmp_path}; Is a directory"


def test_reading_does_not_import_tensorflow(write_file):
    path = write_file("prometheus_config { enable: true }")
    program = (
        "import sys, serving.settings.configuration as c; "
        f"c.read_monitoring({path!r}); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=False).returncode == 0


def test_messages_match_the_proto_file():
    text = (ROOT / "serving" / "settings" / "configuration.proto").read_text()
    for message in parse_proto("configuration.proto", text).message_type:
        fields = {(field.name, field.number) for field in message.field}
        assert fields == {(f.name, f.number) for f in new_message(message.name).DESCRIPTOR.fields}
    nested = parse_proto(
        "n.proto", 'syntax = "proto3"; message A { message B { repeated A a = 3; } B b = 1; int64 c = 2; }'
    )
    assert nested.message_type[0].nested_type[0].field[0].label == 3
    assert [field.name for field in nested.message_type[0].field] == ["b", "c"]


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """(key, certificate) of a server, in PEM."""
    if not shutil.which("openssl"):
        pytest.skip("the certificates are made with openssl")
    path = tmp_path_factory.mktemp("pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-keyout", str(path / "key"), "-out", str(path / "cert")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return (path / "key").read_text(), (path / "cert").read_text()


def ssl_config(key, cert, more=""):
    def quoted(text):
        return '"' + text.replace("\n", "\\n") + '"'

    return f"server_key: {quoted(key)} server_cert: {quoted(cert)} {more}"


def test_certificates(write_file, pem):
    key, cert = pem
    certificates = read_certificates(write_file(ssl_config(key, cert)))
    assert (certificates.server_key.decode(), certificates.server_cert.decode()) == (key, cert)
    assert certificates.context().verify_mode is ssl.CERT_NONE
    verifying = read_certificates(write_file(ssl_config(key, cert, "client_verify: true custom_ca: " + repr(cert))))
    assert verifying.context().verify_mode is ssl.CERT_REQUIRED
    assert len(verifying.context().get_ca_certs()) == 1


def test_unusable_certificates_are_rejected(write_file, pem, capsys):
    key, cert = pem
    encrypted = subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:secret"],
        input=key, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    bad_ca = ssl_config(key, cert, 'custom_ca: "none"')
    for text in ("", ssl_config("no key", cert), ssl_config(key, ""), ssl_config(encrypted, cert), bad_ca):
        assert (
            status_error(read_certificates, write_file(text)) == "INVALID_ARGUMENT: Failed to BuildAndStart gRPC server"
        )
        assert "cannot be used" in capsys.readouterr().err


PLATFORM = """platform_configs {
  key: "%s"
  value { source_adapter_config { [type.googleapis.com/tensorflow.serving.%s] { %s } } }
}"""


def test_load_options_of_flags(write_file):
    from serving.settings.load_options import load_options_of

    options = load_options_of(
        Flags(
            saved_model_tags="serve,gpu",
            tensorflow_intra_op_parallelism=3,
            tensorflow_session_config_file=write_file("inter_op_parallelism_threads: 5 log_device_placement: true"),
            mixed_precision="bfloat16",
            per_process_gpu_memory_fraction=0.5,
            enable_batching=True,
            enable_model_warmup=False,
        )
    )
    assert (options.tags, options.batching, options.warm_up) == (("serve", "gpu"), Batching(), False)
    assert (options.session.intra_op_parallelism_threads, options.session.inter_op_parallelism_threads) == (3, 5)
    assert options.session.log_device_placement
    assert options.session.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert options.session.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 == 1
    assert load_options_of(Flags()).batching is None
    session = load_options_of(Flags(tensorflow_session_parallelism=2)).session
    assert (session.intra_op_parallelism_threads, session.inter_op_parallelism_threads) == (2, 2)
    assert status_error(load_options_of, Flags(tensorflow_session_config_file=write_file("nothing: 1"))).startswith(
        "INVALID_ARGUMENT"
    )


def test_load_options_of_a_platform_file(write_file):
    from serving.settings.load_options import load_options_of

    legacy = """legacy_config {
      session_config { intra_op_parallelism_threads: 3 gpu_options { allow_growth: true } }
      batching_parameters { max_batch_size { value: 7 } }
      saved_model_tags: "a" saved_model_tags: "b" enable_model_warmup: true
      model_warmup_options { num_request_iterations { value: 4 } }
    }"""
    path = write_file(PLATFORM % ("tensorflow", "SavedModelBundleSourceAdapterConfig", legacy))
    options = load_options_of(Flags(platform_config_file=path, saved_model_tags="ignored"))
    assert (options.tags, options.warm_up, options.warm_up_iterations) == (("a", "b"), True, 4)
    assert options.batching == Batching(max_batch_size=7, max_execution_batch_size=7)
    assert (options.session.intra_op_parallelism_threads, options.session.gpu_options.allow_growth) == (3, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            PLATFORM % ("other", "SavedModelBundleSourceAdapterConfig", ""),
            "FAILED_PRECONDITION: PlatformConfigMap has no entry for platform tensorflow",
        ),
        (PLATFORM % ("tensorflow", "Other", ""), "INVALID_ARGUMENT: Invalid protobuf file"),
        (
            PLATFORM % ("tensorflow", "SSLConfig", ""),
            "FAILED_PRECONDITION: source_adapter_config of platform tensorflow is",
        ),
    ],
)
def test_invalid_platform_files_are_rejected(write_file, text, reason):
    from serving.settings.load_options import load_options_of

    assert status_error(load_options_of, Flags(platform_config_file=write_file(text))).startswith(reason)
