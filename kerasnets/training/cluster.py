"""The machines of a training, as the environment variable TF_CONFIG names them.

    {"cluster": {"chief": ["host:port"], "worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}

Each process gets the addresses of all of them (`cluster`) and its own place (`task`). Kubeflow, Ray Train and Vertex AI
set the variable; the chief may be missing, and then the first worker is the chief.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from kerasnets.checks import RequestError

VARIABLE = "TF_CONFIG"
TYPES = ("chief", "worker")


@dataclass(frozen=True)
class Worker:
    """One process of a training: `number` counts those of a kind."""

    kind: str
    number: int
    address: str

    def __str__(self) -> str:
        return f"{self.kind} {self.number} ({self.address})"


@dataclass(frozen=True)
class Cluster:
    """All workers, the chief first, and the index of this one."""

    workers: tuple[Worker, ...]
    index: int

    @property
    def this(self) -> Worker:
        return self.workers[self.index]


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """-> the cluster that TF_CONFIG names, or None without it.

    Raises: RequestError if TF_CONFIG is not what TensorFlow needs.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        refuse(f"is not JSON ({error})")
    if not isinstance(config, dict):
        refuse(f"is {config!r}")
    cluster, task = read_object(config, "cluster"), read_object(config, "task")
    for kind in cluster:
        if kind not in TYPES:
            refuse(f"has tasks of type {kind!r}; here each worker has all weights, and the chief validates")
    addresses = {kind: read_addresses(kind, cluster.get(kind, [])) for kind in TYPES}
    workers = [Worker(kind, n, address) for kind in TYPES for n, address in enumerate(addresses[kind])]
    if not workers:
        refuse("names neither a chief nor a worker")
    if len(addresses["chief"]) > 1:
        refuse(f"names {len(addresses['chief'])} chiefs; there is one")
    if len({worker.address for worker in workers}) < len(workers):
        refuse("has an address twice")
    place = task.get("type"), task.get("index", 0)
    index = next((n for n, worker in enumerate(workers) if (worker.kind, worker.number) == place), None)
    if index is None:
        known = ", ".join(map(str, workers))
        refuse(f"gives this process the type {place[0]!r} and the index {place[1]!r}; the cluster has {known}")
    return Cluster(tuple(workers), index)


def cluster_for(strategy: str) -> Cluster | None:
    """-> the cluster that a training with this strategy runs on, or None if it runs on this machine alone.

    Raises: RequestError if the strategy and TF_CONFIG disagree.
    """
    cluster = read_cluster()
    if cluster is None and strategy == "multi_worker":
        raise RequestError(
            f"--strategy multi_worker needs the environment variable {VARIABLE}, which names the machines; set it on "
            "each of them (docs/training.md shows how), or use --strategy mirrored for the GPUs of this machine."
        )
    if cluster is None:
        return None
    several = len(cluster.workers) > 1
    if several and strategy not in ("auto", "multi_worker"):
        raise RequestError(
            f"{VARIABLE} names {len(cluster.workers)} workers, and --strategy {strategy} would train on each of them "
            f"alone; use --strategy multi_worker, or unset {VARIABLE}."
        )
    return cluster if several or strategy == "multi_worker" else None


def read_object(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if not isinstance(value, dict) or not value:
        refuse(f"has no object {name!r}" if value is None else f"has the {name} {value!r}; it must be an object")
    return value


def read_addresses(kind: str, addresses: Any) -> list[str]:
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        refuse(f"has the {kind} {addresses!r}; it must be a list of addresses")
    for address in addresses:
        if not re.fullmatch(r".+:\d+", address):
            refuse(f"has the {kind} address {address!r}; it must be HOST:PORT")
    return addresses


def refuse(problem: str) -> NoReturn:
    raise RequestError(
        f"{VARIABLE} {problem}. It must be, for example, "
        '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}.'
    )
