"""`python -m benchmarks.scaling [TASK/PRESET]`: weak scaling from one process to two, each on a core of its own.

Each process trains with the preset's batch size, so two train with twice the batch. They alternate with the single
process; a round's efficiency is the time of a step of the one over that of the two. The median over the rounds is
printed. Perfect scaling has efficiency 1: two cores do twice the work in the same time.
"""

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time

ROUNDS, WARM_UP, STEPS = 3, 5, 40


def main(name: str) -> None:
    efficiencies = []
    for n in range(ROUNDS):
        alone, together = measure(name, 1), measure(name, 2)
        efficiencies.append(alone / together)
        print(f"round {n + 1}: one {1e3 * alone:.1f} ms, two {1e3 * together:.1f} ms a step", flush=True)
    print(f"{name}: efficiency {statistics.median(efficiencies):.3f}, load {os.getloadavg()[0]:.1f}")


def measure(name: str, count: int) -> float:
    """-> seconds of a step of `count` processes: of the slowest."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if count > 1:
            environment["TF_CONFIG"] = json.dumps(config)
        command = [sys.executable, "-m", "benchmarks.scaling", "--worker", name, str(index), str(count)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return max(float(process.communicate(timeout=600)[0].splitlines()[-1]) for process in processes)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def work(name: str, index: int, count: int) -> None:
    """Train as one of the processes, and print the seconds of a step."""
    os.sched_setaffinity(0, {index})
    from kerasnets.command import start_tensorflow

    start_tensorflow(with_devices=False)
    import tensorflow as tf

    from kerasnets.tasks import make_task
    from kerasnets.tasks.presets import load_preset
    from kerasnets.training.strategies import make_strategy
    from kerasnets.training.trainer import Trainer

    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = make_strategy("auto")
    task_name, _, preset = name.partition("/")
    config = load_preset(task_name, preset)
    training = dataclasses.replace(config.training, batch_size=count * config.training.batch_size)
    task = make_task(task_name, dataclasses.replace(config, training=training), None)
    trainer = Trainer(task, strategy, WARM_UP + STEPS)
    start = 0.0
    for step, batch in enumerate(trainer.batches(0)):
        if step == WARM_UP:
            start = time.perf_counter()
        trainer.take_step(batch)
    print((time.perf_counter() - start) / STEPS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*(sys.argv[1:] or ["text_generation/small"]))
