"""What a running server tells of itself: Prometheus metrics, the access log, and the status page."""

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
    """Serves `number`, version 3, with everything that observes it."""
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
def asked(server: Server) -> None:
    """Requests of many kinds, good and bad."""
    row = np.array([1.0], np.float32)  # an array has its dtype: the client need not ask for that of the input
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
    """{name with labels: whole number}"""
    reply = POOL.request("GET", f"{server.rest}/metrics")
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/plain")
    return {name: int(n) for name, n in re.findall(r"^([^#].*) (\d+)$", reply.data.decode(), re.MULTILINE)}


def test_metrics_tell_of_requests(server, asked):
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


def test_the_original_path_is_not_there_if_another_is_configured(server):
    assert POOL.request("GET", f"{server.rest}/monitoring/prometheus/metrics").status == 404


def test_the_status_page_shows_model_and_load(server, asked):
    reply = POOL.request("GET", f"{server.rest}/")
    page = reply.data.decode()
    assert reply.status == 200 and reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<h2>number</h2>" in page and "Signatures of version 3" in page
    port = server.rest.rpartition(":")[2]
    assert re.search(rf"curl http://[\w.]+:{port}/v1/models/number:predict", page)
    assert "<dt>answered</dt><dd>3</dd>" in page


def test_the_access_log_has_a_line_for_every_request(server, asked):
    """The last test of the server: it is ended, so that all lines are written."""
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
