"""The client against a server with TLS, tokens, health checks, streams and the list of models."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from client_helpers import BlockingClient, Certificates
from serving_helpers import CONFIG, ROOT, START_SECONDS, free_port, wait_until

from serving.client import Client, InvalidArgument, Tls, Unauthenticated, Unavailable

TOKEN = "open-sesame"


def pem_text(path):
    return path.read_text().replace("\n", "\\n")


def tls_files(certificates):
    return Tls(certificates.path("ca.pem"), certificates.path("client.pem"), certificates.path("client.key"))


@pytest.fixture(scope="module")
def secure_server(store, tmp_path_factory):
    """Return ({protocol: address}, certificates) of a server that requires a certificate and a token."""
    directory = tmp_path_factory.mktemp("secure_server")
    certificates = Certificates(directory)
    store.publish(store.example, directory / "example", 1)
    store.publish(store.number(2), directory / "example", 2)
    store.publish(store.number(1), directory / "number", 1)
    (directory / "models.config").write_text(CONFIG.format(models=directory))
    (directory / "tokens").write_text(f"another\n{TOKEN}\n")
    (directory / "ssl.config").write_text(
        f'server_key: "{pem_text(certificates.path("server.key"))}"\n'
        f'server_cert: "{pem_text(certificates.path("server.pem"))}"\n'
        f'custom_ca: "{pem_text(certificates.path("ca.pem"))}"\nclient_verify: true\n'
    )
    grpc_port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving", f"--model_config_file={directory}/models.config"]
    command += [f"--port={grpc_port}", f"--rest_api_port={rest_port}", f"--ssl_config_file={directory}/ssl.config"]
    command += ["--allow_version_labels_for_unavailable_models", "--enable_grpc_healthcheck_service"]
    command += ["--rest_api_extensions", "--rest_api_enable_tls", f"--api_token_file={directory}/tokens"]
    log = directory / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        addresses = {"grpc": f"grpcs://127.0.0.1:{grpc_port}", "rest": f"https://127.0.0.1:{rest_port}"}
        with Client(addresses["grpc"], tls=tls_files(certificates), token=TOKEN) as client:
            # The ports open as soon as one version is loaded.
            wait_until(lambda: [v.state for v in client.status("example")] == ["AVAILABLE"] * 2, START_SECONDS)
        yield addresses, certificates
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "async"])
def make_client(request, secure_server, protocol):
    """Return a function that creates a client of the server."""
    addresses, certificates = secure_server
    return lambda **options: request.param(
        addresses[protocol], **{"tls": tls_files(certificates), "token": TOKEN} | options
    )


def test_requests_with_certificate_and_token(make_client):
    with make_client() as client:
        assert client.predict("example", {"x": [1, 2]}, version=1)["y"].tolist() == [2.5, 3.0]
        assert client.classify("example", [{"x": [0.5, 2.0]}], "classify", version=1) == [
            [("none", 0.5), ("other", 2.0)]
        ]
        assert client.ready() is True


@pytest.mark.parametrize("token", [None, "other", TOKEN + "x"])
def test_requests_without_the_token_are_rejected(make_client, token):
    with make_client(token=token) as client:
        for ask in (client.status, client.metadata, lambda name: client.predict(name, {"x": np.ones(1, np.float32)})):
            with pytest.raises(Unauthenticated):
                ask("example")


def test_connections_without_a_certificate_are_rejected(make_client, secure_server):
    with make_client(tls=Tls(secure_server[1].path("ca.pem")), retries=0) as client, pytest.raises(Unavailable):
        client.status("example", timeout=20)


def test_streams(make_client, protocol):
    with make_client() as client:
        inputs = {"word": ["w"], "step": [0.5]}
        pieces = client.stream("example", inputs, steps=3, label="stable")
        assert [(piece["text"].tolist(), piece["total"].tolist()) for piece in pieces] == [
            ([b"w0"], [0.0]),
            ([b"w1"], [0.5]),
            ([b"w2"], [1.0]),
        ]
        pieces = client.stream("example", inputs, steps=10_000, version=1)
        next(pieces)
        pieces.close()
        with pytest.raises(InvalidArgument):
            list(client.stream("example", {"word": ["w"]}, steps=2, version=1))
        if protocol == "rest":
            with pytest.raises(InvalidArgument, match="a whole number from 1 to 10000"):
                list(client.stream("example", inputs, steps=10_001, version=1))


def test_models(make_client, protocol):
    if protocol == "grpc":
        pytest.skip("gRPC has no list of models")
    with make_client() as client:
        models = client.models()
    assert models == {"example": {2: "AVAILABLE", 1: "AVAILABLE"}, "number": {1: "AVAILABLE"}}
