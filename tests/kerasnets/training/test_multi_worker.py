"""Training in several processes: TF_CONFIG, a run that is stopped, loses a worker and resumes, and wrong requests."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_runs import ROOT
from test_devices import cluster, free_ports

from kerasnets.checks import RequestError
from kerasnets.training.cluster import cluster_for, read_cluster

OPTIONS = ["--preset=quick", "--training.epochs=200", "--training.checkpoint-seconds=1"]
START = "import sys\nimport kerasnets.training.{module} as module\nmodule.{name} = {value}\n"
START += "from kerasnets import command, train\nsys.argv[0] = 'train'\ncommand.run(train.main)"


def config(workers=("a:1", "b:1"), task=("worker", 0), **others):
    return json.dumps({"cluster": {"worker": list(workers), **others}, "task": {"type": task[0], "index": task[1]}})


@pytest.mark.parametrize(
    ("environment", "workers", "index"),
    [
        ({"TF_CONFIG": config()}, ["worker 0 (a:1)", "worker 1 (b:1)"], 0),
        ({"TF_CONFIG": config(task=("worker", 1))}, ["worker 0 (a:1)", "worker 1 (b:1)"], 1),
        ({"TF_CONFIG": config(["b:1"], chief=["a:1"])}, ["chief 0 (a:1)", "worker 0 (b:1)"], 1),
        ({"TF_CONFIG": config(["b:1"], ("chief", 0), chief=["a:1"])}, ["chief 0 (a:1)", "worker 0 (b:1)"], 0),
        ({"TF_CONFIG": config(["[::1]:22"])}, ["worker 0 ([::1]:22)"], 0),
    ],
)
def test_a_cluster_has_the_chief_first(environment, workers, index):
    read = read_cluster(environment)
    assert [str(worker) for worker in read.workers] == workers and read.index == index


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", r"is \[1\]"),
        ("{}", "has no object 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "has no object 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": 3}', "has the task 3; it must be an object"),
        (config([]), "names neither a chief nor a worker"),
        (config(ps=["c:1"]), "has tasks of type 'ps'"),
        (config(evaluator=["c:1"]), "has tasks of type 'evaluator'"),
        (config(chief=["c:1", "d:1"]), "names 2 chiefs"),
        (config(["a:1", "a:1"]), "has an address twice"),
        (config(["a"]), "has the worker address 'a'; it must be HOST:PORT"),
        (config("a:1").replace('["a", ":", "1"]', '"a:1"'), "has the worker 'a:1'; it must be a list of addresses"),
        (
            config(task=("worker", 2)),
            r"gives this process the type 'worker' and the index 2; the cluster has worker 0 \(a:1\), worker 1",
        ),
        (config(task=("worker", -1)), ".* the index -1"),
        (config(task=("worker", "0")), ".* the index '0'"),
        (config(task=("chief", 0)), ".* the type 'chief' and the index 0"),
    ],
)
def test_a_wrong_tf_config_is_refused(text, problem):
    with pytest.raises(RequestError, match=rf"^TF_CONFIG {problem}.* It must be, for example, "):
        read_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("strategy", "text", "result"),
    [
        ("auto", None, None),
        ("mirrored", config(["a:1"]), None),
        ("auto", config(["a:1"]), None),
        ("auto", config(), 2),
        ("multi_worker", config(), 2),
        ("multi_worker", config(["a:1"]), 1),
        ("multi_worker", None, "needs the environment variable TF_CONFIG"),
        ("mirrored", config(), "would train on each of them alone; use --strategy multi_worker, or unset TF_CONFIG"),
        ("one_device", config(), "TF_CONFIG names 2 workers"),
    ],
)
def test_the_strategy_and_tf_config_must_agree(strategy, text, result, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    if isinstance(result, str):
        with pytest.raises(RequestError, match=result):
            cluster_for(strategy)
    else:
        found = cluster_for(strategy)
        assert (found and len(found.workers)) == result


class Group:
    """The workers of a training, each in a directory of its own."""

    def __init__(self, directory, commands):
        self.directories = [directory / str(n) for n in range(len(commands))]
        ports, self.processes = free_ports(len(commands)), []
        for n, command in enumerate(commands):
            self.directories[n].mkdir(exist_ok=True)
            environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": cluster(ports, n)}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=self.directories[n],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait_for_a_new_checkpoint(self):
        """Wait until the chief has written one more checkpoint."""
        checkpoints = self.directories[0] / "run" / "checkpoints"
        before = set(checkpoints.glob("*.index"))
        for _ in range(3000):
            if set(checkpoints.glob("*.index")) - before:
                return
            assert all(process.poll() is None for process in self.processes), self.end()
            time.sleep(0.1)
        raise AssertionError(self.end())

    def end(self, seconds=300):
        """-> exit status and messages of each worker."""
        results = []
        for process in self.processes:
            try:
                errors = process.communicate(timeout=seconds)[1]
            finally:
                process.kill()
            results.append((process.returncode, errors))
        return results


def train(*options):
    return ["-m", "kerasnets.train", "image_classification", *OPTIONS, *options, "--run-dir=run"]


@pytest.mark.slow
def test_workers_stop_together_notice_a_lost_one_and_resume(tmp_path):
    # SIGTERM for one worker stops all after the same step.
    group = Group(tmp_path, [train(), train()])
    group.wait_for_a_new_checkpoint()
    group.processes[1].send_signal(signal.SIGTERM)
    results = group.end()
    assert [status for status, _ in results] == [0, 0], results
    stop, other = [re.search(r"stopped after step ([\d,]+) of 4,400; run the same", text)[1] for _, text in results]
    assert stop == other
    # A worker that is killed ends the others with a sentence.
    group = Group(tmp_path, [train(), train()])
    group.wait_for_a_new_checkpoint()
    group.processes[1].kill()
    (status, text), _ = group.end(seconds=60)
    assert status == 1
    assert f"resuming from step {stop.replace(',', '')} " in text
    assert re.search(r"error: worker 1 \(127.0.0.1:\d+\) was lost, so training stops; start all workers again", text)
    # Started again, they train to the end; only the chief has written anything.
    group = Group(tmp_path, [train("--training.batch-size=32")] * 2)
    results = group.end()
    assert [status for status, _ in results] == [2, 2], results
    assert "holds a run with other options (training.batch_size was 64 and is now 32)" in results[0][1]
    assert "worker 0" in results[1][1] and "could not start to train; the output there says why" in results[1][1]
    epochs = max((entry["epoch"] for entry in log(group) if entry["kind"] == "validation"), default=0) + 1
    group = Group(tmp_path, [train(f"--resume-with=training.epochs={epochs}")] * 2)
    results = group.end()
    assert [status for status, _ in results] == [0, 0], results
    run = group.directories[0] / "run"
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["replicas"] == 2 and metrics["steps"] == 22 * epochs
    steps = [entry["step"] for entry in log(group) if entry["kind"] == "validation"]
    assert steps == [22 * epoch for epoch in range(1, epochs + 1)]
    assert not list(group.directories[1].iterdir())


def log(group):
    lines = (group.directories[0] / "run" / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_workers_must_have_the_same_options(tmp_path):
    results = Group(tmp_path, [train(), train("--seed=1")]).end()
    assert [status for status, _ in results] == [2, 2], results
    for _, text in results:
        assert re.search(r"error: the options of worker 1 \(.*\) and of worker 0 \(.*\), the chief, are not the", text)
    assert not (tmp_path / "1" / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_a_worker_that_does_not_come_is_named(missing, tmp_path):
    program = START.format(module="strategies", name="SECONDS_TO_CONNECT", value=2)
    commands = [["-c", program, *train()[2:]]] * 2
    commands[missing] = ["-c", "pass"]
    status, text = Group(tmp_path, commands).end()[1 - missing]
    assert status == 2
    assert re.search(rf"error: worker {missing} \(127.0.0.1:\d+\) did not answer within 2 s; start a worker", text)
