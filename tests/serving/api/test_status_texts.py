"""Length limits of status messages, which quote requests of any size."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import grpc
import pytest
from serving_helpers import Server
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.errors import MAX_MESSAGE_CHARACTERS, StatusError
from serving.rpc.server import MAX_STATUS_BYTES

SECONDS = 60
NAME = "m" * 2 * MAX_MESSAGE_CHARACTERS
START = "Could not find any versions of model mmm"


def test_only_long_messages_are_truncated():
    longest = "a" * MAX_MESSAGE_CHARACTERS
    assert StatusError("NOT_FOUND", longest).message == longest
    assert StatusError("NOT_FOUND", longest + "a").message == longest + "..."


def test_long_messages_are_truncated_over_rest(server: Server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.rest}/v1/models/{NAME}", timeout=SECONDS)
    with caught.value as response:
        message = json.loads(response.read())["error"]
    assert response.code == 404
    assert message.startswith(START) and message.endswith("mmm...")
    assert len(message) == MAX_MESSAGE_CHARACTERS + len("...")


def test_long_messages_are_truncated_further_over_grpc(server: Server):
    """In gRPC, the message is sent in a header."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = NAME
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=SECONDS)
    message = caught.value.details()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert message.startswith(START) and message.endswith("mmm...TRUNCATED")
    assert len(message) == MAX_STATUS_BYTES + len("...TRUNCATED")
