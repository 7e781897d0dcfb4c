"""Who has no token or certificate gets nothing, and who asks too much at once is refused."""

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
def guarded(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with tokens, limits and all there is to see."""
    models = tmp_path_factory.mktemp("access")
    publish(store, models)
    (models / "tokens").write_text(f"# who may ask\n{ASCII_TOKEN}\n\n{TOKEN}\n", "utf-8")
    (models / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [f"--api_token_file={models}/tokens", f"--monitoring_config_file={models}/monitoring"]
    flags += ["--rest_api_extensions", "--enable_grpc_healthcheck_service", "--allow_config_reload=false"]
    flags += ["--max_concurrent_requests=3", "--max_request_bytes=100000"]
    with running(models, *flags) as server:
        yield server
        assert_clean_log(server)


ASCII_TOKEN = "another-1234567890"
WRONG = [
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
    "Bearer # who may ask",
    "Bearer a",
    "Bearer " + "a" * 4000,
]
"""Not what lets a request in."""


def sent(authorization: str | None) -> list[str]:
    return [] if authorization is None else [f"Authorization: {authorization}"]


@pytest.mark.parametrize("authorization", WRONG)
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
def test_no_token_no_access_over_rest(guarded, method, path, authorization):
    request = request_bytes(method, path, GOOD_BODY if method == "POST" else b"", *sent(authorization))
    with connect(guarded) as connection:
        connection.sendall(request)
        status, _, body = read_answer(connection, head=method == "HEAD")
    assert status == 401
    assert b"send `Authorization: Bearer TOKEN`" in body or method == "HEAD"
    assert ASCII_TOKEN.encode() not in body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(guarded, path):
    assert exchange(guarded, request_bytes("GET", path))[0] == 200


@pytest.mark.parametrize("token", [TOKEN, ASCII_TOKEN])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_lets_in(guarded, token, scheme):
    start, rest = request_bytes("POST", GOOD_PATH, GOOD_BODY).split(b"\r\n", 1)
    request = b"%s\r\nAuthorization: %s\r\n%s" % (start, f"{scheme} {token}".encode(), rest)
    status, _, body = exchange(guarded, request)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


@pytest.mark.parametrize("path", ["/metrics", "/", "/v1/models", "/v1/models/example"])
def test_a_token_shows_all(guarded, path):
    assert exchange(guarded, request_bytes("GET", path, b"", *sent(f"Bearer {ASCII_TOKEN}")))[0] == 200


def metadata(authorization: str | None) -> list[tuple[str, str]]:
    return [] if authorization is None else [("authorization", authorization)]


@pytest.mark.parametrize("authorization", WRONG)
@pytest.mark.parametrize("method", [*METHODS, "/nobody.Knows/This"])
def test_no_token_no_access_over_grpc(guarded, method, authorization):
    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"\xff", metadata=metadata(authorization), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_no_message_is_read_without_a_token(guarded):
    """Nobody can fill the memory: a message that is too large is not even found to be so."""
    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PREDICTION}/Predict")(b"\n" * 50_000_000, timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("authorization", WRONG)
def test_no_token_no_reflection(guarded, authorization):
    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(REFLECTION)(iter([b""]), metadata=metadata(authorization), timeout=60))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_reflection_with_a_token(guarded):
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), metadata=metadata(f"Bearer {ASCII_TOKEN}"), timeout=60)
        names = {service.name for answer in answers for service in answer.list_services_response.service}
    assert {PREDICTION, MODEL} <= names


def test_nobody_loads_directories_where_a_flag_forbids_it(guarded):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="secret", base_path="/etc", model_platform="tensorflow")
    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(
            request, metadata=metadata(f"Bearer {ASCII_TOKEN}"), timeout=60
        )
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "--allow_config_reload=false: change its --model_config_file" in caught.value.details()
    asked = request_bytes("GET", "/v1/models", b"", *sent(f"Bearer {ASCII_TOKEN}"))
    names = [model["name"] for model in json.loads(exchange(guarded, asked)[2])["models"]]
    assert names == ["example", "number"]


def test_grpc_health_needs_no_token(guarded):
    with grpc.insecure_channel(guarded.grpc) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"  # SERVING


def take_request() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "example", "take"
    request.inputs["x"].dtype, request.inputs["x"].float_val[:] = types_pb2.DT_FLOAT, [1.0]
    request.inputs["x"].tensor_shape.dim.add(size=1)
    return request


def test_too_many_requests_at_once(guarded):
    """Three wait; the fourth is refused over both protocols; when one has gone, another may come."""
    authorized = metadata(f"Bearer {ASCII_TOKEN}")
    good = request_bytes("POST", GOOD_PATH, GOOD_BODY, *sent(f"Bearer {ASCII_TOKEN}"))
    wait_until(lambda: exchange(guarded, good)[0] == 200)
    with grpc.insecure_channel(guarded.grpc) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        takes = [predict.future(take_request(), metadata=authorized) for _ in range(3)]

        def waiting() -> bool:
            for index, take in enumerate(takes):
                if take.done():  # refused, because the request below was one of three
                    takes[index] = predict.future(take_request(), metadata=authorized)
            return exchange(guarded, good)[0] == 429

        wait_until(waiting)
        status, _, body = exchange(guarded, good)
        assert status == 429
        assert "3 requests are in flight, which is the limit" in json.loads(body)["error"]
        with pytest.raises(grpc.RpcError) as caught:
            model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
                get_model_status_pb2.GetModelStatusRequest(), metadata=authorized, timeout=60
            )
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert exchange(guarded, request_bytes("GET", "/healthz"))[0] == 200
        for path in ("/metrics", "/"):  # who watches the server sees it when it matters most
            assert exchange(guarded, request_bytes("GET", path, b"", *sent(f"Bearer {ASCII_TOKEN}")))[0] == 200
        assert exchange(guarded, request_bytes("POST", GOOD_PATH, GOOD_BODY))[0] == 401, "tokens are looked at first"
        for take in takes:
            take.cancel()
        wait_until(lambda: exchange(guarded, good)[0] == 200)


def test_too_large_requests(guarded):
    authorized = f"Bearer {ASCII_TOKEN}"
    request = take_request()
    request.inputs["x"].string_val.append(b"a" * 100_001)
    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
            request, metadata=metadata(authorized), timeout=60
        )
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert exchange(guarded, request_bytes("POST", GOOD_PATH, b" " * 100_001, *sent(authorized)))[0] == 413
    assert exchange(guarded, request_bytes("POST", GOOD_PATH, b" " * 100_000, *sent(authorized)))[0] == 400


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(store: Store, certificates: Certificates) -> Iterator[Server]:
    """A server that speaks TLS alone and wants to see the client's certificate."""
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
    """Of a request that finds nothing, if it is let in."""
    if credentials is None:
        channel = grpc.insecure_channel(server.grpc)
    else:
        channel = grpc.secure_channel(server.grpc, credentials)
    with channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PREDICTION}/Predict")(b"", timeout=60)
    return caught.value.code()


def test_grpc_shows_certificates_and_looks_at_them(secured, certificates):
    authority, key, certificate = (certificates.path(n).read_bytes() for n in ("ca.pem", "client.key", "client.pem"))
    known = grpc.ssl_channel_credentials(authority, key, certificate)
    assert grpc_status(secured, known) == grpc.StatusCode.INVALID_ARGUMENT
    for stranger in (
        None,
        grpc.ssl_channel_credentials(authority),
        grpc.ssl_channel_credentials(None, key, certificate),
    ):
        assert grpc_status(secured, stranger) == grpc.StatusCode.UNAVAILABLE


def tls_exchange(server: Server, context: ssl.SSLContext) -> tuple[int, dict[str, str], bytes]:
    with connect(server) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(GOOD_REQUEST)
        return read_answer(connection)


def test_rest_shows_certificates_and_looks_at_them(secured, certificates):
    known = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    stranger = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    known.load_cert_chain(certificates.path("client.pem"), certificates.path("client.key"))
    status, _, body = tls_exchange(secured, known)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)
    with pytest.raises(OSError, match="certificate required|alert|reset|closed"):
        tls_exchange(secured, stranger)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls_exchange(secured, ssl.create_default_context())
    with pytest.raises(ConnectionError):
        exchange(secured, GOOD_REQUEST)  # in the open
    with connect(secured) as connection:  # a handshake that does not end
        connection.sendall(b"\x16\x03\x01")
        assert tls_exchange(secured, known)[0] == 200
