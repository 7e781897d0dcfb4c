"""Static checks of the image, the configuration files and the Kubernetes manifests."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from serving_helpers import ROOT, Server
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import StatusError
from serving.settings.configuration import (
    METRICS_PATH,
    Monitoring,
    read_batching,
    read_certificates,
    read_file,
    read_monitoring,
)
from serving.settings.flags import Flags, channel_arguments, check, parse

CONFIG = ROOT / "serving" / "config"
MANIFESTS = CONFIG / "kubernetes"
# The oldest release of Kubernetes with stable gRPC probes, and the newest release with schemas.
KUBERNETES = ("1.27", ".".join(map(str, kubernetes_validate.latest_version().split(".")[:2])))
HELM_VALUES = "prometheus-adapter.yaml"
TRAINING = "train.yaml"  # a kind that Kubernetes itself does not know
MODELS = {"image_classification", "text_generation", "translation"}
OWN_FLAGS = {flag.name for flag in fields(Flags) if flag.metadata.get("own")}


# The image.


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the (INSTRUCTION, arguments) of a Dockerfile in order."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    return instructions(ROOT / "Dockerfile.serve")


def values(image: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for word, rest in image if word == instruction]


def copied_files(image: list[tuple[str, str]]) -> dict[str, str]:
    """Return {path in the image: path in the repository}."""
    found = {}
    for rest in values(image, "COPY"):
        *sources, target = [word for word in rest.split() if not word.startswith("--")]
        for source in sources:
            is_folder = source.endswith("/")
            found[target if is_folder else target + Path(source).name] = source
    return found


def parse_flags(arguments: list[str]) -> Flags:
    """Parse flags of TensorFlow Serving; check that it has each of them and that none is repeated."""
    names = [re.fullmatch(r"--(\w+)=.+", argument)[1] for argument in arguments]
    assert len(set(names)) == len(names)
    assert set(names) <= {flag.name for flag in fields(Flags)} - OWN_FLAGS
    flags = parse(arguments)
    check(flags)
    return flags


def test_the_image_is_based_on_tensorflow_serving_without_root(image):
    assert [word for word, _ in image].index("FROM") == 0
    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", values(image, "FROM")[0])
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", values(image, "USER")[-1])
    words = [word for word, _ in image]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in ("COPY", "RUN"))


def test_the_image_serves_with_flags_and_files_that_exist(image):
    program, *arguments = json.loads(values(image, "ENTRYPOINT")[0])
    assert program == "/usr/bin/tensorflow_model_server"
    flags = parse_flags(arguments)
    files = copied_files(image)
    for path in (flags.model_config_file, flags.batching_parameters_file, flags.monitoring_config_file):
        assert (ROOT / files[path]).is_file()
    assert f"{flags.port} {flags.rest_api_port}" == values(image, "EXPOSE")[0]
    assert flags.enable_batching and flags.enable_grpc_healthcheck_service


def test_files_of_the_image_are_in_the_build_context(image):
    """.dockerignore excludes all files that it does not list; `make demo` writes models/."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"

    def is_sent(path: str) -> bool:
        sent = False
        for pattern in patterns[1:]:
            if path == pattern.removeprefix("!") or path.startswith(pattern.removeprefix("!") + "/"):
                sent = pattern.startswith("!")
        return sent

    for source in copied_files(image).values():
        assert is_sent(source.rstrip("/")), source
        assert source == "models/" or (ROOT / source).is_file(), source
    assert is_sent("models/translation/1/saved_model.pb")
    excluded = ("models/models.config", "serving/config/ssl.config", "serving/config/kubernetes/service.yaml", ".git")
    assert not any(is_sent(path) for path in excluded)


def test_the_image_checks_the_health_of_its_models(image):
    options, _, command = values(image, "HEALTHCHECK")[0].partition(" CMD ")
    assert re.search(r"--timeout=\d+s", options) and "--start-period=" in options
    shell, script = json.loads(command)
    assert shell == "/bin/bash" and copied_files(image)[script] == "serving/config/health.sh"
    environment = dict(word.split("=", 1) for word in shlex.split(" ".join(values(image, "ENV"))))
    models = read_file(str(CONFIG / "models.config"), model_server_config_pb2.ModelServerConfig())
    assert set(environment["HEALTH_MODELS"].split()) == {model.name for model in models.model_config_list.config}
    comments = "\n".join(re.findall("^# (.*)", (ROOT / "Dockerfile.serve").read_text(), re.MULTILINE))
    assert all(f"{name}: " in comments for name in environment), "a comment explains each variable"


def health(models: str, port: int) -> int:
    environment = {"PATH": "/usr/bin:/bin", "HEALTH_MODELS": models, "HEALTH_PORT": str(port)}
    return subprocess.run(["bash", CONFIG / "health.sh"], env=environment, timeout=240, capture_output=True).returncode


def test_the_health_check_needs_every_model(server: Server):
    port = int(server.rest.rpartition(":")[2])
    assert health("example", port) == 0
    assert health("example number", port) == 0
    assert health("example missing", port) == 1
    assert health("", port) == 0


def test_the_health_check_fails_without_a_server_or_with_an_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert health("example", unused.getsockname()[1]) == 1
    with socket.create_server(("127.0.0.1", 0)) as other:

        def refuse() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        assert health("example", other.getsockname()[1]) == 1
        thread.join(30)


# The configuration files.


def test_the_model_configuration_has_each_model_with_its_directory():
    config = read_file(str(CONFIG / "models.config"), model_server_config_pb2.ModelServerConfig())
    models = config.model_config_list.config
    assert {model.name: model.base_path for model in models} == {name: f"/models/{name}" for name in MODELS}
    assert all(model.model_platform == "tensorflow" for model in models)


def test_commented_options_of_the_model_configuration_are_valid():
    lines = (CONFIG / "models.config").read_text().splitlines()
    options = re.findall(r"# (?:To .*: )?((?:model_version_policy|version_labels) \{.*\})$", "\n".join(lines), re.M)
    assert len(options) == 5
    for text in options:
        text_format.Parse(text, model_server_config_pb2.ModelConfig())


def test_the_batching_parameters_are_complete_and_consistent():
    batching = read_batching(str(CONFIG / "batching.config"))
    assert batching.max_execution_batch_size == batching.allowed_batch_sizes[-1] <= batching.max_batch_size
    text = (CONFIG / "batching.config").read_text()
    names = re.findall(r"^\s+(?:repeated )?[\w.]+ (\w+) = \d+;", _message("BatchingParameters"), re.MULTILINE)
    assert len(names) == 9
    for name in names:
        assert re.search(rf"^{name}\b", text, re.MULTILINE), f"the file sets {name}"


def _message(name: str) -> str:
    text = (ROOT / "serving" / "settings" / "configuration.proto").read_text()
    return re.search(rf"^message {name} \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)[1]


def test_the_metrics_have_the_path_in_the_manifests():
    assert read_monitoring(str(CONFIG / "monitoring.config")) == Monitoring(True, METRICS_PATH)
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS_PATH


def test_the_tls_configuration_with_placeholders_is_rejected(capsys):
    with pytest.raises(StatusError, match="Failed to BuildAndStart"):
        read_certificates(str(CONFIG / "ssl.config"))
    assert "cannot be used" in capsys.readouterr().err
    text = (CONFIG / "ssl.config").read_text()
    for name in ("server_key", "server_cert", "custom_ca", "client_verify"):
        assert re.search(rf"^{name}: ", text, re.MULTILINE), f"the file sets {name}"


@pytest.mark.skipif(not shutil.which("openssl"), reason="the commands need openssl")
def test_the_commands_in_the_tls_configuration_create_a_valid_one(tmp_path):
    commands = re.findall(r"^#   (.*)", (CONFIG / "ssl.config").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-ec", "\n".join(commands)], cwd=tmp_path, check=True, capture_output=True, timeout=240)
    assert (tmp_path / "ssl.config").stat().st_mode & 0o077 == 0
    certificates = read_certificates(str(tmp_path / "ssl.config"))
    client = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with certificates.context().wrap_socket(connection, server_side=True) as secure:
                secure.sendall(b"well")

        thread = threading.Thread(target=answer)
        thread.start()
        with client.wrap_socket(
            socket.create_connection(listener.getsockname()), server_hostname="localhost"
        ) as secure:
            assert secure.recv(4) == b"well"
        thread.join(30)


# Kubernetes.


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        if path.name not in (HELM_VALUES, TRAINING):
            yield from documents(path)


def manifest(kind: str) -> dict[str, Any]:
    return next(document for document in manifests() if document["kind"] == kind)


def container() -> dict[str, Any]:
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def pre_stop_seconds() -> int:
    sleep, seconds = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "/bin/sleep"
    return int(seconds)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("document", manifests(), ids=lambda document: document["kind"])
def test_manifests_match_the_schemas(document, version):
    kubernetes_validate.validate(document, version, strict=True)
    wrong = document | {"spec": document["spec"] | {"unknown": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def commented_list(text: str, indent: str) -> Any:
    """Parse the YAML list that is commented out at an indentation."""
    return yaml.safe_load("\n".join(re.findall(rf"^{indent}# ((?:- |  ).*)$", text, re.MULTILINE)))


@pytest.mark.parametrize("version", KUBERNETES)
def test_commented_rules_of_the_network_policy_are_valid(version):
    text = (MANIFESTS / "network.yaml").read_text()
    policy = yaml.safe_load(text)
    policy["spec"]["ingress"][0]["from"] += commented_list(text, " " * 4)
    policy["spec"]["egress"] = commented_list(text, " " * 2)
    assert len(policy["spec"]["ingress"][0]["from"]) == 2
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [53, 53, 443]
    kubernetes_validate.validate(policy, version, strict=True)


def test_the_network_policy_allows_only_clients_and_prometheus():
    spec = manifest("NetworkPolicy")["spec"]
    assert spec["podSelector"] == manifest("Deployment")["spec"]["selector"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"} and spec["egress"] == []
    ports = {port["name"] for port in container()["ports"]}
    clients, prometheus = spec["ingress"]
    assert {port["port"] for port in clients["ports"]} == ports
    assert clients["from"] == [{"podSelector": {"matchLabels": {"model-server-client": "true"}}}]
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    scraped = {
        port["name"] for port in container()["ports"] if str(port["containerPort"]) == annotations["prometheus.io/port"]
    }
    assert {port["port"] for port in prometheus["ports"]} == scraped
    for rule in spec["ingress"]:  # a rule without `from` would allow everybody
        assert rule["from"] and all(peer.get("podSelector") for peer in rule["from"])


def patched_deployment(name: str) -> dict[str, Any]:
    """Apply one of the patches (RFC 6902) to the deployment, like kustomize."""
    deployment = copy.deepcopy(manifest("Deployment"))
    for change in yaml.safe_load((MANIFESTS / "patches" / name).read_text()):
        *keys, last = change["path"].strip("/").split("/")
        parent: Any = deployment
        for key in keys:
            parent = parent[int(key) if isinstance(parent, list) else key]
        if change["op"] == "remove":
            del parent[last]
        elif last == "-":
            parent.append(change["value"])
        else:
            assert change["op"] == "add" or last in parent
            parent[last] = change["value"]
    return deployment


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", ["tls.yaml", "own-server.yaml"])
def test_patches_mount_the_secrets_of_their_flags(name, version):
    deployment = patched_deployment(name)
    kubernetes_validate.validate(deployment, version, strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    flags = parse(one["args"])
    check(flags)
    is_own = one["command"] == ["python", "-m", "serving"]
    assert is_own == (name == "own-server.yaml")
    if is_own:
        assert flags.host == "0.0.0.0" and flags.rest_api_enable_tls and flags.rest_api_extensions
    else:
        parse_flags(one["args"])
    text = (MANIFESTS / "patches" / name).read_text()
    mount = next(mount for mount in one["volumeMounts"] if flags.ssl_config_file.startswith(mount["mountPath"]))
    volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert mount["readOnly"]
    source = volume.get("secret") or volume["projected"]
    assert source["defaultMode"] == 0o440
    names = [each["secret"]["name"] for each in source.get("sources", [])] or [source["secretName"]]
    created = dict(re.findall(r"^#   kubectl create secret generic (\S+) --from-file=(\S+)$", text, re.MULTILINE))
    assert list(created) == names
    files = {path for path in (flags.ssl_config_file, flags.api_token_file) if path}
    assert files == {f"{mount['mountPath']}/{file}" for file in created.values()}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "grpc" not in one[probe] and one[probe]["httpGet"]["port"] == "rest"
        assert one[probe]["httpGet"].get("scheme") == ("HTTPS" if is_own else None)


def test_the_kustomization_has_the_patches_as_comments():
    text = (CONFIG / "kustomization.yaml").read_text()
    commented = yaml.safe_load("\n".join(re.findall(r"^# (patches:|  [- ] .*)$", text, re.MULTILINE)))
    paths = {f"kubernetes/patches/{path.name}" for path in (MANIFESTS / "patches").iterdir()}
    assert {patch["path"] for patch in commented["patches"]} == paths
    for patch in commented["patches"]:
        assert patch["target"] == {"kind": "Deployment", "name": manifest("Deployment")["metadata"]["name"]}
        lines = (CONFIG / patch["path"]).read_text()
        assert (
            patch
            == yaml.safe_load("\n".join(re.findall(r"^#   (patches:|  [- ] .*)$", lines, re.MULTILINE)))["patches"][0]
        )


def test_the_kustomization_lists_every_manifest_except_the_job():
    kustomization = yaml.safe_load((CONFIG / "kustomization.yaml").read_text())
    written = {f"kubernetes/{path.name}" for path in MANIFESTS.glob("*.yaml")}
    assert set(kustomization["resources"]) == written - {
        f"kubernetes/{name}" for name in ("publish.yaml", HELM_VALUES, TRAINING)
    }
    (generator,) = kustomization["configMapGenerator"]
    assert all((CONFIG / name).is_file() for name in generator["files"])
    mounted = {Path(value).name for argument in container()["args"] if (value := argument.split("=")[1])[0] == "/"}
    assert mounted == set(generator["files"])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("patch", [None, "tls.yaml", "own-server.yaml"])
def test_kustomize_builds_all_objects(tmp_path, patch):
    config = shutil.copytree(CONFIG, tmp_path / "config")
    if patch:
        kustomization = yaml.safe_load((config / "kustomization.yaml").read_text())
        kustomization["patches"] = [{"path": f"kubernetes/patches/{patch}", "target": {"kind": "Deployment"}}]
        (config / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = subprocess.run(["kubectl", "kustomize", config], check=True, capture_output=True, timeout=240)
    objects = {document["kind"]: document for document in yaml.safe_load_all(built.stdout)}
    for document in objects.values():
        kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (mounted,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]
    assert mounted["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert objects["ConfigMap"]["data"]["models.config"] == (CONFIG / "models.config").read_text()
    expected = patched_deployment(patch) if patch else manifest("Deployment")
    assert pod["containers"][0]["args"] == expected["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_deployment_starts_tensorflow_serving_with_mounted_files(image):
    assert container()["image"] == values(image, "FROM")[0]
    flags = parse_flags(container()["args"])
    mounts = {mount["mountPath"]: mount for mount in container()["volumeMounts"]}
    for path in (flags.model_config_file, flags.batching_parameters_file, flags.monitoring_config_file):
        assert mounts[str(Path(path).parent)]["readOnly"] and (CONFIG / Path(path).name).is_file()
    assert mounts["/models"]["readOnly"]
    assert [port["containerPort"] for port in container()["ports"]] == [flags.port, flags.rest_api_port]
    assert flags.enable_grpc_healthcheck_service
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["grpc"] == {"port": flags.port, "service": "PredictionService"}


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_have_minimal_privileges(kind):
    pod = manifest(kind)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] >= 10000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in pod["containers"]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in one["resources"]["limits"] and "cpu" in one["resources"]["requests"]


def test_a_pod_stops_after_its_last_request():
    spec = manifest("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    flags = parse_flags(container()["args"])
    settings = dict(channel_arguments(flags))
    last_call = 1.1 * settings["grpc.max_connection_age_ms"] + settings["grpc.max_connection_age_grace_ms"]
    assert pre_stop_seconds() * 1000 > max(last_call, flags.rest_api_timeout_in_ms)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > pre_stop_seconds()


def test_services_budget_and_autoscaler_select_the_pods():
    deployment = manifest("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    services = documents(MANIFESTS / "service.yaml")
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for service in services:
        assert service["spec"]["selector"] == labels
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    assert services[1]["spec"]["clusterIP"] == "None"
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }


def test_the_autoscaler_uses_requests_in_progress_and_the_cpu():
    metrics = {metric["type"]: metric for metric in manifest("HorizontalPodAutoscaler")["spec"]["metrics"]}
    assert metrics["Resource"]["resource"]["name"] == "cpu"
    (rule,) = yaml.safe_load((MANIFESTS / HELM_VALUES).read_text())["rules"]["custom"]
    assert metrics["Pods"]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert '__name__=":tensorflow:serving:request_latency_sum"' in rule["seriesQuery"]
    assert rule["metricsQuery"].endswith("/ 1e6")


def tf_job_schema() -> dict[str, Any]:
    """Return the schema of a TFJob of kubeflow.org/v1, without the pods' own (V1TFJobSpec of the operator's API)."""

    def strict(required: list[str], **properties: Any) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    count = {"type": "integer", "minimum": 0}
    replicas = strict(
        ["replicas", "restartPolicy", "template"],
        replicas=count | {"minimum": 1},
        restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
        template=strict(["spec"], metadata={"type": "object"}, spec={"type": "object"}),
    )
    policy = strict(
        [],
        activeDeadlineSeconds=count,
        backoffLimit=count,
        cleanPodPolicy={"enum": ["All", "Running", "None"]},
        ttlSecondsAfterFinished=count,
    )
    spec = strict(["tfReplicaSpecs"], runPolicy=policy, tfReplicaSpecs=strict(["Worker"], Worker=replicas))
    return strict(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "kubeflow.org/v1"},
        kind={"const": "TFJob"},
        metadata=strict(["generateName"], generateName={"type": "string"}),
        spec=spec,
    )


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_training_job_is_valid(version):
    (job,) = documents(MANIFESTS / TRAINING)
    jsonschema.validate(job, tf_job_schema())
    workers = job["spec"]["tfReplicaSpecs"]["Worker"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "spec": workers["template"]["spec"]}
    kubernetes_validate.validate(pod, version, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job | {"spec": job["spec"] | {"unknown": 1}}, tf_job_schema())
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "tensorflow"  # the operator sets TF_CONFIG in this one
    assert [port["name"] for port in container["ports"]] == ["tfjob-port"]


def test_the_training_job_has_options_of_the_program():
    (job,) = documents(MANIFESTS / TRAINING)
    (container,) = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    command = [sys.executable, *container["command"][1:], *container["args"], "--help"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    for argument in container["args"][1:]:
        assert argument.partition("=")[0] in process.stdout


def publish(source: Path, target: Path) -> str:
    """Run the script of the job; return its output."""
    (one,) = manifest("Job")["spec"]["template"]["spec"]["containers"]
    assert {variable["name"] for variable in one["env"]} == {"FROM", "TO"}
    command = [*one["command"], *one["args"]]
    environment = {"PATH": "/usr/bin:/bin", "FROM": str(source), "TO": str(target)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=240).stdout


def test_the_job_publishes_new_versions_and_keeps_the_others(tmp_path):
    image, volume = tmp_path / "image", tmp_path / "volume"
    for version in ("translation/1", "translation/2", "text generation/7", "translation/notes"):
        (image / version / "variables").mkdir(parents=True)
        (image / version / "saved_model.pb").write_text(version)
    (volume / "translation" / "1").mkdir(parents=True)
    (volume / "translation" / "1" / "saved_model.pb").write_text("there before")
    printed = publish(image, volume)
    assert "translation/1 is there already" in printed and "published translation/2" in printed
    found = {str(path.relative_to(volume).parent): path.read_text() for path in volume.rglob("saved_model.pb")}
    assert found == {
        "translation/1": "there before",
        "translation/2": "translation/2",
        "text generation/7": "text generation/7",
    }
    assert not list(volume.glob("*/incoming*"))
    assert "published" not in publish(image, volume)


def test_an_interrupted_job_can_run_again(tmp_path):
    image, volume = tmp_path / "image", tmp_path / "volume"
    (image / "m" / "3").mkdir(parents=True)
    (image / "m" / "3" / "saved_model.pb").write_text("whole")
    incomplete = volume / "m" / "incoming-3-another-pod"
    incomplete.mkdir(parents=True)
    publish(image, volume)
    assert (volume / "m" / "3" / "saved_model.pb").read_text() == "whole"
    assert incomplete.is_dir(), "another job may be writing it"
