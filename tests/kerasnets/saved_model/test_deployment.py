"""Configuration for servers: models.config with labels, batching parameters."""

import contextlib
import shutil
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from small_runs import ROOT, TASKS, free_port
from tensorflow_serving.config import model_server_config_pb2

from kerasnets.saved_model import deployment
from serving.client import Client, ServingError


def add_versions(models, name, *numbers):
    for number in numbers:
        (models / name / str(number)).mkdir(parents=True)
        (models / name / str(number) / "saved_model.pb").touch()


def read_config(models):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((models / deployment.CONFIG).read_text(), config)
    return {entry.name: entry for entry in config.model_config_list.config}


def test_every_model_has_an_entry(tmp_path):
    add_versions(tmp_path, "a", 1)
    add_versions(tmp_path, "b", 1, 2)
    (tmp_path / "notes" / "1").mkdir(parents=True)
    deployment.update_config(tmp_path, "b", 2)
    entries = read_config(tmp_path)
    assert set(entries) == {"a", "b"} and entries["a"].base_path == str(tmp_path / "a")
    assert entries["a"].model_platform == "tensorflow"
    assert not any(entry.HasField("model_version_policy") or entry.version_labels for entry in entries.values())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [deployment.CONFIG]


def test_labels_stay_or_move(tmp_path):
    def export(number, label):
        add_versions(tmp_path, "a", number)
        deployment.update_config(tmp_path, "a", number, label)
        entry = read_config(tmp_path)["a"]
        return dict(entry.version_labels), list(entry.model_version_policy.specific.versions)

    assert export(1, "stable") == ({"stable": 1}, [1])
    assert export(2, "canary") == ({"stable": 1, "canary": 2}, [1, 2])
    assert export(3, None) == ({"stable": 1, "canary": 2}, [1, 2, 3])
    assert export(4, "stable") == ({"stable": 4, "canary": 2}, [2, 4])
    shutil.rmtree(tmp_path / "a" / "2")
    assert export(5, "stable") == ({"stable": 5}, [5])
    shutil.rmtree(tmp_path / "a" / "5")
    assert export(6, None) == ({}, [])
    assert not read_config(tmp_path)["a"].HasField("model_version_policy")


def test_other_fields_and_entries_are_kept(tmp_path):
    add_versions(tmp_path, "a", 1)
    add_versions(tmp_path, "b", 1)
    deployment.update_config(tmp_path, "a", 1)
    path = tmp_path / deployment.CONFIG
    other = 'config { name: "c" base_path: "/elsewhere/c" model_platform: "tensorflow" }'
    text = path.read_text().replace('platform: "tensorflow"', 'platform: "tensorflow" model_version_policy { all {} }')
    path.write_text(text.rstrip().removesuffix("}") + other + "}")
    shutil.rmtree(tmp_path / "b")
    deployment.update_config(tmp_path, "a", 1, "stable")
    entries = read_config(tmp_path)
    assert set(entries) == {"a", "c"}
    assert entries["a"].model_version_policy.HasField("all") and entries["a"].version_labels["stable"] == 1


@pytest.mark.parametrize("text", ["# mine\nmodel_config_list {}", f"{deployment.GENERATED}\nmodel_config_list {{"])
def test_a_file_of_the_user_is_unchanged(tmp_path, capsys, text):
    add_versions(tmp_path, "a", 1)
    path = tmp_path / deployment.CONFIG
    path.write_text(text)
    deployment.update_config(tmp_path, "a", 1, "canary")
    assert path.read_text() == text
    printed = capsys.readouterr().err
    assert "is unchanged" in printed and 'version_labels { key: "canary" value: 1 } to a' in printed


def save_adder(path, number):
    @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
    def add(x):
        return {"sum": x + number}

    tf.saved_model.save(tf.Module(), str(path), {"serving_default": add})


@contextlib.contextmanager
def server(models):
    """Run `python -m serving` with the generated models.config; -> its gRPC and REST addresses."""
    grpc, rest = free_port(), free_port()
    flags = [f"--model_config_file={models / deployment.CONFIG}", "--allow_version_labels_for_unavailable_models"]
    command = [sys.executable, "-m", "serving", f"--port={grpc}", f"--rest_api_port={rest}", *flags]
    log = models / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 300
        while "HTTP/REST API" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{grpc}", f"http://127.0.0.1:{rest}"
    finally:
        process.terminate()
        process.wait()


def test_a_server_serves_the_models_and_labels_of_the_generated_file(tmp_path):
    for number in (1, 2, 3):
        save_adder(tmp_path / "a" / str(number), number)
        deployment.update_config(tmp_path, "a", number, {2: "stable", 3: "canary"}.get(number))
    save_adder(tmp_path / "b" / "5", 50)
    deployment.update_config(tmp_path, "b", 5)
    with server(tmp_path) as addresses:
        for address in addresses:
            with Client(address) as client:
                versions = {"stable": 2, "canary": 3, None: 3}
                for label, number in versions.items():
                    assert client.predict("a", {"x": [1.0]}, label=label)["sum"] == [1 + number]
                assert client.predict("b", {"x": [1.0]})["sum"] == [51]
                with pytest.raises(ServingError, match="Unrecognized servable version label: oldest"):
                    client.predict("a", {"x": [1.0]}, label="oldest")
                assert [(v.version, v.state) for v in client.status("a")] == [(3, "AVAILABLE"), (2, "AVAILABLE")]


@pytest.fixture(scope="module")
def batching_parameters():
    """The class of TensorFlow Serving's BatchingParameters, which no package has."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="b", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    numbers = ("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_execution_batch_size")
    for number, name in enumerate((*numbers, "enable_large_batch_splitting"), start=1):
        wrapper = "Int64Value" if name in numbers else "BoolValue"
        message.field.add(name=name, number=number, type=11, label=1, type_name=f".google.protobuf.{wrapper}")
    message.field.add(name="allowed_batch_sizes", number=9, type=3, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("b.BatchingParameters"))


@pytest.mark.parametrize(
    ("latencies", "size", "wait"),
    [
        ([1, 1.1, 1.2, 1.3, 1.6, 2.7, 5.3], 32, 500),  # 10, 11.9 and 12.1 rows per millisecond at 16, 32 and 64
        ([2, 4, 8], 1, 0),  # batches are not faster
        ([3.0], 1, 0),
        ([9, 2, 2.2, 4], 4, 1000),  # the latency of one row is limited to that of two
    ],
)
def test_the_batch_size_is_the_smallest_fast_one(batching_parameters, latencies, size, wait):
    batches = [{"rows": 2**n, "p50": latency} for n, latency in enumerate(latencies)]
    text = deployment.batching(batches, cpus=4)
    parameters = text_format.Parse(text, batching_parameters())
    assert parameters.max_execution_batch_size.value == size
    assert list(parameters.allowed_batch_sizes) == [2**n for n in range(size.bit_length())]
    assert parameters.batch_timeout_micros.value == wait and parameters.num_batch_threads.value == 4
    assert parameters.max_batch_size.value >= size and parameters.enable_large_batch_splitting.value


@pytest.mark.parametrize("task", TASKS)
def test_exports_have_batching_parameters(models_dir, batching_parameters, task):
    parameters = text_format.Parse((models_dir / task / "1" / deployment.BATCHING).read_text(), batching_parameters())
    assert parameters.allowed_batch_sizes[-1] == parameters.max_execution_batch_size.value
