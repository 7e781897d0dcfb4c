"""TensorBoard's profiler asks the server, over the gRPC port, what TensorFlow does."""

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


def begin(profile):
    """A profile that is being recorded, until it is ended."""

    def start():
        return profile.future(ProfileRequest(duration_ms=600_000), timeout=300)

    def has_begun():
        nonlocal recording
        if recording.done():  # it came while one of the short ones below was being recorded, and was refused
            recording = start()
        short = profile.future(ProfileRequest(duration_ms=1), timeout=60)
        return short.code() is grpc.StatusCode.ALREADY_EXISTS

    recording = start()
    wait_until(has_begun)
    return recording


def test_a_profile_shows_the_operations_that_ran(server, profile, terminate):
    recording = begin(profile)
    with Client(server.grpc) as client:
        for _ in range(20):
            client.predict("example", {"x": np.ones((2, 2), np.float32)}, signature="matrix", version=1)
    terminate(TerminateRequest(), timeout=60)
    space = xplane_pb2.XSpace.FromString(recording.result().xspace)
    names = {meta.name for plane in space.planes for meta in plane.event_metadata.values()}
    assert any("MatMul" in name for name in names), sorted(names)[:50]


def test_tensorflows_own_client_writes_what_it_gets(server, tmp_path):
    stop = threading.Event()

    def ask():
        with Client(server.grpc) as client:
            while not stop.wait(0.01):
                client.predict("example", {"x": np.ones(2, np.float32)})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        program = f"tensorflow.profiler.experimental.client.trace('grpc://{server.grpc}', {str(tmp_path)!r}, 500)"
        subprocess.run([sys.executable, "-c", f"import tensorflow; {program}"], check=True, timeout=600)
    finally:
        stop.set()
        thread.join(30)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_one_profile_at_a_time_and_terminate_ends_it(profile, terminate):
    recording = begin(profile)
    with pytest.raises(grpc.RpcError) as caught:
        profile(ProfileRequest(duration_ms=0), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    terminate(TerminateRequest(), timeout=60)
    assert recording.exception(60) is None


def test_terminate_without_a_profile(terminate):
    assert terminate(TerminateRequest(), timeout=60) == TerminateResponse()
