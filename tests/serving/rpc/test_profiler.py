"""TensorBoard's profiler records TensorFlow's operations over the gRPC port."""

import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from serving_helpers import wait_until
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from serving.client import Client
from serving.rpc.profiler import ProfileRequest, ProfileResponse, TerminateRequest, TerminateResponse


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
def profile(channel):
    return channel.unary_unary(
        "/tensorflow.ProfilerService/Profile", ProfileRequest.SerializeToString, ProfileResponse.FromString
    )


@pytest.fixture
def terminate(channel):
    return channel.unary_unary(
        "/tensorflow.ProfilerService/Terminate", TerminateRequest.SerializeToString, TerminateResponse.FromString
    )


def start_profile(profile):
    """Start a profile that runs until it is terminated."""

    def start():
        return profile.future(ProfileRequest(duration_ms=600_000), timeout=300)

    def is_recording():
        nonlocal recording
        if recording.done():  # refused, because one of the short profiles below was being recorded
            recording = start()
        short = profile.future(ProfileRequest(duration_ms=1), timeout=60)
        return short.code() is grpc.StatusCode.ALREADY_EXISTS

    recording = start()
    wait_until(is_recording)
    return recording


def test_a_profile_contains_the_executed_operations(server, profile, terminate):
    recording = start_profile(profile)
    with Client(server.grpc) as client:
        for _ in range(20):
            client.predict("example", {"x": np.ones((2, 2), np.float32)}, signature="matrix", version=1)
    terminate(TerminateRequest(), timeout=60)
    space = xplane_pb2.XSpace.FromString(recording.result().xspace)
    names = {meta.name for plane in space.planes for meta in plane.event_metadata.values()}
    assert any("MatMul" in name for name in names), sorted(names)[:50]


def test_the_profiler_client_of_tensorflow_writes_the_profile(server, tmp_path):
    stop = threading.Event()

    def predict_until_stopped():
        with Client(server.grpc) as client:
            while not stop.wait(0.01):
                client.predict("example", {"x": np.ones(2, np.float32)})

    thread = threading.Thread(target=predict_until_stopped)
    thread.start()
    try:
        program = f"tensorflow.profiler.experimental.client.trace('grpc://{server.grpc}', {str(tmp_path)!r}, 500)"
        subprocess.run([sys.executable, "-c", f"import tensorflow; {program}"], check=True, timeout=600)
    finally:
        stop.set()
        thread.join(30)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_one_profile_at_a_time_and_terminate_ends_it(profile, terminate):
    recording = start_profile(profile)
    with pytest.raises(grpc.RpcError) as caught:
        profile(ProfileRequest(duration_ms=0), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    terminate(TerminateRequest(), timeout=60)
    assert recording.exception(60) is None


def test_terminate_without_a_profile(terminate):
    assert terminate(TerminateRequest(), timeout=60) == TerminateResponse()
