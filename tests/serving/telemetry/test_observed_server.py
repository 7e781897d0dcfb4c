"""Observability of a running server: Prometheus metrics, the access log, and the status page."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import urllib3
from serving_helpers import ROOT, START_SECONDS, Server, Store, free_port, wait_until

from serving.client import Client, InvalidArgument, NotFound

POOL = urllib3.PoolManager(retries=False)


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of version 3 of `number`, with metrics, access log and status page."""
    directory = tmp_path_factory.mktemp("observed")
    store.publish(store.number(3), directory / "models" / "number", 3)
    monitoring = directory / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    grpc_port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving", f"--models_dir={directory / 'models'}", f"--port={grpc_port}"]
    command += [f"--rest_api_port={rest_port}", "--rest_api_extensions", f"--monitoring_config_file={monitoring}"]
    command += [f"--access_log_file={directory / 'access.log'}"]
    log = directory / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", directory, log)
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def sent_requests(server: Server) -> None:
    """Send valid and invalid requests."""
    row = np.array([1.0], np.float32)  # with a dtype, so that the client need not request the metadata
    for address, times in ((server.grpc, 2), (server.rest, 1)):
        with Client(address) as client:
            for _ in range(times):
                client.predict("number", {"x": row})
    with Client(server.grpc) as client:
        with pytest.raises(NotFound):
            client.predict("unknown", {"x": row}, signature="s")
        with pytest.raises(InvalidArgument):
            client.predict("number", {"z": row})
    body = json.dumps({"signature_name": "s", "instances": [1.0]})
    assert POOL.request("POST", f"{server.rest}/v1/models/unknown:predict", body=body).status == 404


def metrics(server: Server) -> dict[str, int]:
    """Return {name with labels: value} of the integer metrics."""
    response = POOL.request("GET", f"{server.rest}/metrics")
    assert response.status == 200 and response.headers["Content-Type"].startswith("text/plain")
    return {name: int(n) for name, n in re.findall(r"^([^#].*) (\d+)$", response.data.decode(), re.MULTILINE)}


def test_metrics_count_requests(server, sent_requests):
    found = metrics(server)
    count = ':tensorflow:serving:request_count{model_name="%s",status="%s"}'
    assert found[count % ("number", "OK")] == 3
    assert found[count % ("number", "INVALID_ARGUMENT")] == 1
    assert found[count % ("unknown", "NOT_FOUND")] == 2
    latency = ':tensorflow:serving:request_latency_count{model_name="number",API="%s",entrypoint="%s"}'
    assert found[latency % ("Predict", "GRPC")] == 2
    assert found[latency % ("predict", "REST")] == 1
    assert found[':tensorflow:serving:runtime_latency_count{model_name="number",API="Predict",runtime="TF1"}'] == 3
    assert not [name for name in found if "request_latency" in name and "unknown" in name]
    path = server.models / "models" / "number" / "3"
    assert found[f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{path}",status="success"}}'] == 1
    assert found[':serving:requests_in_flight{model_name="number"}'] == 0


def test_configured_metrics_path_replaces_the_default(server):
    assert POOL.request("GET", f"{server.rest}/monitoring/prometheus/metrics").status == 404


def test_status_page_shows_model_and_load(server, sent_requests):
    response = POOL.request("GET", f"{server.rest}/")
    page = response.data.decode()
    assert response.status == 200 and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<h2>number</h2>" in page and "Signatures of version 3" in page
    port = server.rest.rpartition(":")[2]
    assert re.search(rf"curl http://[\w.]+:{port}/v1/models/number:predict", page)
    assert "<dt>answered</dt><dd>3</dd>" in page


def test_access_log_has_a_line_per_request(server, sent_requests):
    """The last test of the server, because it stops the server so that all lines are written."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    entries = [json.loads(line) for line in (server.models / "access.log").read_text().splitlines()]
    predicts = [entry for entry in entries if entry["method"] == "Predict"]
    seen = [(e["protocol"], e["model"], e["version"], e["code"]) for e in predicts]
    assert sorted(seen, key=str) == sorted(
        [("GRPC", "number", 3, "OK")] * 2
        + [("REST", "number", 3, "OK")]
        + [(protocol, "unknown", None, "NOT_FOUND") for protocol in ("GRPC", "REST")]
        + [("GRPC", "number", 3, "INVALID_ARGUMENT")],
        key=str,
    )
    assert {e["signature"] for e in predicts if e["model"] == "unknown"} == {"s"}
    for entry in predicts:
        assert entry["milliseconds"] > 0 and entry["request_bytes"] > 0 and "127.0.0.1" in entry["peer"]
    assert all(entry["response_bytes"] > 0 for entry in predicts if entry["code"] == "OK")
