"""Requests without a token or certificate, or beyond the limits, are refused."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator

import grpc
import pytest
from client_helpers import Certificates
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving_helpers import Server, Store, wait_until
from survival_helpers import (
    GOOD_ANSWER,
    GOOD_BODY,
    GOOD_PATH,
    GOOD_REQUEST,
    assert_clean_log,
    connect,
    exchange,
    publish,
    read_answer,
    request_bytes,
    running,
)
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

TOKEN = "s3cret/Tökèn"
PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
METHODS = [
    *(f"/{PREDICTION}/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
    *(f"/{MODEL}/{name}" for name in ("GetModelStatus", "HandleReloadConfigRequest")),
    *(f"/tensorflow.ProfilerService/{name}" for name in ("Profile", "Terminate", "Monitor")),
]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def token_server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tokens, limits and all extensions."""
    models = tmp_path_factory.mktemp("access")
    publish(store, models)
    (models / "tokens").write_text(f"# valid tokens\n{ASCII_TOKEN}\n\n{TOKEN}\n", "utf-8")
    (models / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [f"--api_token_file={models}/tokens", f"--monitoring_config_file={models}/monitoring"]
    flags += ["--rest_api_extensions", "--enable_grpc_healthcheck_service", "--allow_config_reload=false"]
    flags += ["--max_concurrent_requests=3", "--max_request_bytes=100000"]
    with running(models, *flags) as server:
        yield server
        assert_clean_log(server)


ASCII_TOKEN = "another-1234567890"
INVALID_AUTHORIZATIONS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {ASCII_TOKEN[:-1]}",
    f"Bearer {ASCII_TOKEN}x",
    f"Bearer {ASCII_TOKEN.upper()}",
    f"Bearer {ASCII_TOKEN} {ASCII_TOKEN}",
    f"Basic {ASCII_TOKEN}",
    ASCII_TOKEN,
    "Bearer # valid tokens",
    "Bearer a",
    "Bearer " + "a" * 4000,
]


def authorization_headers(authorization: str | None) -> list[str]:
    return [] if authorization is None else [f"Authorization: {authorization}"]


@pytest.mark.parametrize("authorization", INVALID_AUTHORIZATIONS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", GOOD_PATH),
        ("POST", "/v1/models/example:stream"),
        ("GET", "/v1/models/example"),
        ("GET", "/v1/models/example/metadata"),
        ("GET", "/v1/models/missing"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/elsewhere"),
        ("HEAD", "/healthz"),
        ("POST", "/healthz"),
        ("GET", "/healthz/../metrics"),
        ("GET", "/healthz?/"),
        ("GET", "//metrics"),
    ],
)
def test_rest_requires_a_token(token_server, method, path, authorization):
    request = request_bytes(method, path, GOOD_BODY if method == "POST" else b"", *authorization_headers(authorization))
    with connect(token_server) as connection:
        connection.sendall(request)
        status, _, body = read_answer(connection, head=method == "HEAD")
    assert status == 401
    assert b"send `Authorization: Bearer TOKEN`" in body or method == "HEAD"
    assert ASCII_TOKEN.encode() not in body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(token_server, path):
    assert exchange(token_server, request_bytes("GET", path))[0] == 200


@pytest.mark.parametrize("token", [TOKEN, ASCII_TOKEN])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_valid_tokens_are_accepted(token_server, token, scheme):
    start, rest = request_bytes("POST", GOOD_PATH, GOOD_BODY).split(b"\r\n", 1)
    request = b"%s\r\nAuthorization: %s\r\n%s" % (start, f"{scheme} {token}".encode(), rest)
    status, _, body = exchange(token_server, request)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


@pytest.mark.parametrize("path", ["/metrics", "/", "/v1/models", "/v1/models/example"])
def test_a_token_gives_access_to_all_pages(token_server, path):
    page = request_bytes("GET", path, b"", *authorization_headers(f"Bearer {ASCII_TOKEN}"))
    assert exchange(token_server, page)[0] == 200


def metadata(authorization: str | None) -> list[tuple[str, str]]:
    return [] if authorization is None else [("authorization", authorization)]


@pytest.mark.parametrize("authorization", INVALID_AUTHORIZATIONS)
@pytest.mark.parametrize("method", [*METHODS, "/unknown.Service/Method"])
def test_grpc_requires_a_token(token_server, method, authorization):
    with grpc.insecure_channel(token_server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"\xff", metadata=metadata(authorization), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_no_message_is_read_without_a_token(token_server):
    """Unauthenticated clients cannot fill the memory: the size of a message is not even checked."""
    with grpc.insecure_channel(token_server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PREDICTION}/Predict")(b"\n" * 50_000_000, timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("authorization", INVALID_AUTHORIZATIONS)
def test_reflection_requires_a_token(token_server, authorization):
    with grpc.insecure_channel(token_server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(REFLECTION)(iter([b""]), metadata=metadata(authorization), timeout=60))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_reflection_with_a_token(token_server):
    with grpc.insecure_channel(token_server.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), metadata=metadata(f"Bearer {ASCII_TOKEN}"), timeout=60)
        names = {service.name for answer in answers for service in answer.list_services_response.service}
    assert {PREDICTION, MODEL} <= names


def test_a_flag_forbids_to_load_other_directories(token_server):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="secret", base_path="/etc", model_platform="tensorflow")
    with grpc.insecure_channel(token_server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(
            request, metadata=metadata(f"Bearer {ASCII_TOKEN}"), timeout=60
        )
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "--allow_config_reload=false: change its --model_config_file" in caught.value.details()
    list_models = request_bytes("GET", "/v1/models", b"", *authorization_headers(f"Bearer {ASCII_TOKEN}"))
    names = [model["name"] for model in json.loads(exchange(token_server, list_models)[2])["models"]]
    assert names == ["example", "number"]


def test_grpc_health_needs_no_token(token_server):
    with grpc.insecure_channel(token_server.grpc) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"  # SERVING


def take_request() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "example", "take"
    request.inputs["x"].dtype, request.inputs["x"].float_val[:] = types_pb2.DT_FLOAT, [1.0]
    request.inputs["x"].tensor_shape.dim.add(size=1)
    return request


def test_concurrent_requests_are_limited(token_server):
    """Three requests wait: a fourth is refused over both protocols, and accepted after they have ended."""
    authorized = metadata(f"Bearer {ASCII_TOKEN}")
    good = request_bytes("POST", GOOD_PATH, GOOD_BODY, *authorization_headers(f"Bearer {ASCII_TOKEN}"))
    wait_until(lambda: exchange(token_server, good)[0] == 200)
    with grpc.insecure_channel(token_server.grpc) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        takes = [predict.future(take_request(), metadata=authorized) for _ in range(3)]

        def waiting() -> bool:
            for index, take in enumerate(takes):
                if take.done():  # refused, because the request below was one of the three
                    takes[index] = predict.future(take_request(), metadata=authorized)
            return exchange(token_server, good)[0] == 429

        wait_until(waiting)
        status, _, body = exchange(token_server, good)
        assert status == 429
        assert "3 requests are in flight, which is the limit" in json.loads(body)["error"]
        with pytest.raises(grpc.RpcError) as caught:
            model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
                get_model_status_pb2.GetModelStatusRequest(), metadata=authorized, timeout=60
            )
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert exchange(token_server, request_bytes("GET", "/healthz"))[0] == 200
        for path in ("/metrics", "/"):  # monitoring is not limited
            page = request_bytes("GET", path, b"", *authorization_headers(f"Bearer {ASCII_TOKEN}"))
            assert exchange(token_server, page)[0] == 200
        assert exchange(token_server, request_bytes("POST", GOOD_PATH, GOOD_BODY))[0] == 401, "tokens are checked first"
        for take in takes:
            take.cancel()
        wait_until(lambda: exchange(token_server, good)[0] == 200)


def test_large_requests_are_refused(token_server):
    authorized = f"Bearer {ASCII_TOKEN}"
    request = take_request()
    request.inputs["x"].string_val.append(b"a" * 100_001)
    with grpc.insecure_channel(token_server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
            request, metadata=metadata(authorized), timeout=60
        )
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for size, status in ((100_001, 413), (100_000, 400)):
        post = request_bytes("POST", GOOD_PATH, b" " * size, *authorization_headers(authorized))
        assert exchange(token_server, post)[0] == status


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not shutil.which("openssl"):
        pytest.skip("the certificates need openssl")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(store: Store, certificates: Certificates) -> Iterator[Server]:
    """A server that requires TLS and client certificates."""
    models = certificates.directory
    publish(store, models)
    texts = {name: json.dumps(certificates.path(name).read_text()) for name in ("server.key", "server.pem", "ca.pem")}
    (models / "ssl.config").write_text(
        f"server_key: {texts['server.key']} server_cert: {texts['server.pem']} custom_ca: {texts['ca.pem']} "
        "client_verify: true"
    )
    with running(models, f"--ssl_config_file={models}/ssl.config", "--rest_api_enable_tls") as server:
        yield server
        assert_clean_log(server)


def grpc_status(server: Server, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """Return the status of an empty request."""
    if credentials is None:
        channel = grpc.insecure_channel(server.grpc)
    else:
        channel = grpc.secure_channel(server.grpc, credentials)
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PREDICTION}/Predict")(b"", timeout=60)
    return caught.value.code()


def test_grpc_verifies_certificates_of_both_sides(tls_server, certificates):
    authority, key, certificate = (certificates.path(n).read_bytes() for n in ("ca.pem", "client.key", "client.pem"))
    trusted = grpc.ssl_channel_credentials(authority, key, certificate)
    assert grpc_status(tls_server, trusted) == grpc.StatusCode.INVALID_ARGUMENT
    for untrusted in (
        None,
        grpc.ssl_channel_credentials(authority),
        grpc.ssl_channel_credentials(None, key, certificate),
    ):
        assert grpc_status(tls_server, untrusted) == grpc.StatusCode.UNAVAILABLE


def tls_exchange(server: Server, context: ssl.SSLContext) -> tuple[int, dict[str, str], bytes]:
    with connect(server) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(GOOD_REQUEST)
        return read_answer(connection)


def test_rest_verifies_certificates_of_both_sides(tls_server, certificates):
    trusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    untrusted = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    trusted.load_cert_chain(certificates.path("client.pem"), certificates.path("client.key"))
    status, _, body = tls_exchange(tls_server, trusted)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)
    with pytest.raises(OSError, match="certificate required|alert|reset|closed"):
        tls_exchange(tls_server, untrusted)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_exchange(tls_server, ssl.create_default_context())
    with pytest.raises(ConnectionError):
        exchange(tls_server, GOOD_REQUEST)  # without TLS
    with connect(tls_server) as connection:  # an incomplete handshake
        connection.sendall(b"\x16\x03\x01")
        assert tls_exchange(tls_server, trusted)[0] == 200
