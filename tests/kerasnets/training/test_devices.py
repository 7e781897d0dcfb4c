"""Training on one device, on two, in parts and in two processes gives the same weights.

Devices and workers must be configured before TensorFlow starts, so this file runs itself as a program for them.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_tasks import Averages, Characters, FakeTask, Images, Pairs

from kerasnets.checks import RequestError
from kerasnets.training.step import make_step
from kerasnets.training.strategies import make_strategy
from kerasnets.training.trainer import Trainer

STEPS = 20
TASKS = {task.__name__: task for task in (Images, Averages, Characters, Pairs)}
# Batch normalization would use the statistics of each part.
IN_PARTS = [name for name in TASKS if name != "Images"]


def train(task, strategy):
    """-> {name: array}: loss and weight of each step, the weights, the carry, the first steps' rows of each device."""
    trainer = Trainer(task, strategy, STEPS)
    # Adam divides by the size of the gradients: a larger epsilon keeps it from scaling rounding errors up.
    trainer.optimizer.epsilon = 1e-4
    batches, losses, rows = iter(trainer.batches(0)), [], []
    for _ in range(STEPS):
        batch = next(batches)
        rows.append([len(part) for part in strategy.experimental_local_results(next(iter(batch.values())))])
        losses.append(trainer.take_step(batch)[:2])
    assert trainer.step.experimental_get_tracing_count() == 1  # one graph for all shapes
    result = {"losses": np.array(losses), "rows": np.array(rows)}
    for n, part in enumerate(tf.nest.flatten(trainer.collect_carry())):
        result[f"carry {n}"] = part
    with trainer.exported_model():
        for n, variable in enumerate(trainer.model.variables):
            path = variable.path.partition("/")[2]  # without the model's name, which contains a counter
            if "seed_generator" not in path:
                result[f"weight {n} {path}"] = variable.numpy()
    return result


def clipped_step(strategy):
    """Run one step of a linear model whose devices have the gradients [3, 0] and [0, 4] of weight 2; -> its weights"""

    class Linear(FakeTask):
        def loss(self, model, batch, carry, training):
            return tf.reduce_sum(model(batch["x"])), tf.cast(len(batch["x"]), tf.float32), carry

    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(model.trainable_variables)
    data = tf.data.Dataset.from_tensors({"x": tf.constant([[3.0, 0], [0, 4]])}).unbatch().batch(2)
    data = strategy.experimental_distribute_dataset(data)
    step, _ = make_step(Linear(), model, optimizer, strategy, (data.element_spec, ()))
    step(next(iter(data)), (), tf.zeros(2), 1.0)
    return model.get_weights()[0].ravel()


def main(directory, variant):
    """Train all tasks in one of the ways, and save the results to a file of each task."""
    if variant == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = make_strategy("auto" if variant in "01" else variant)
    for accumulation in {"one_device": (1, 4), "mirrored": (1,)}.get(variant, (2,)):
        for name, task in TASKS.items():
            if name in IN_PARTS or accumulation < 4:
                parts = accumulation if name in IN_PARTS else 1
                np.savez(
                    Path(directory, f"{name} {variant} {accumulation}.npz"), **train(task(accumulation=parts), strategy)
                )
    if variant not in "01":
        np.savez(Path(directory, f"clipped {variant}.npz"), weights=clipped_step(strategy))


def start(directory, variant, **environment):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    command = [sys.executable, __file__, str(directory), variant]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cluster(ports, index):
    """-> the variable TF_CONFIG of a worker."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """-> {(task, variant, accumulation): the result of `train`}, and the weights of `clipped_step`."""
    directory, ports = tmp_path_factory.mktemp("results"), free_ports(2)
    for group in (["one_device"], ["mirrored"], ["0", "1"]):
        configs = [{"TF_CONFIG": cluster(ports, int(variant))} if variant in "01" else {} for variant in group]
        processes = [start(directory, variant, **config) for variant, config in zip(group, configs, strict=True)]
        for process in processes:
            errors = process.communicate(timeout=600)[1]
            assert process.returncode == 0, errors[-3000:]
    return {tuple(path.stem.split()): dict(np.load(path)) for path in directory.iterdir()}


WAYS = [
    *((name, "mirrored", "1") for name in TASKS),
    *((name, "one_device", "4") for name in IN_PARTS),
    *((name, "0", "2") for name in TASKS),
]


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_every_way_gives_the_weights_of_one_device(results, way):
    one, other = results[way[0], "one_device", "1"], results[way]
    assert one.keys() == other.keys()
    for name in one.keys() - {"rows"}:
        np.testing.assert_allclose(other[name], one[name], atol=1e-6, rtol=2e-6, err_msg=name)


def test_training_changes_all_weights(results):
    """Otherwise equal weights would prove nothing."""
    for name, task in TASKS.items():
        initial = Trainer(task(), make_strategy("one_device"), STEPS).model.variables
        trained = results[name, "one_device", "1"]
        for n, variable in enumerate(initial):
            path = f"weight {n} {variable.path.partition('/')[2]}"
            # A key's bias shifts all scores equally, so its gradient is zero except for rounding errors.
            if path in trained and not path.endswith("key/bias"):
                assert np.abs(trained[path] - variable.numpy()).max() > 1e-3, path


@pytest.mark.parametrize("name", TASKS)
def test_all_workers_have_the_same_weights(results, name):
    chief, other = results[name, "0", "2"], results[name, "1", "2"]
    for key in chief:
        np.testing.assert_array_equal(chief[key], other[key], err_msg=key)


def test_batches_are_split_over_the_devices(results):
    """A batch of seven pairs is filled with a row of padding."""
    for variant, devices in (("mirrored", 2), ("0", 1)):
        accumulation = "1" if variant == "mirrored" else "2"
        for name in ("Characters", "Pairs"):
            assert results[name, variant, accumulation]["rows"].tolist() == [[4] * devices] * STEPS


def test_gradients_are_clipped_after_the_sum(results):
    # The mean [1.5, 2] has norm 2.5 and is clipped to 0.5; clipping on each device would give another direction.
    for variant in ("one_device", "mirrored"):
        np.testing.assert_allclose(results["clipped", variant]["weights"], [-0.3, -0.4], atol=1e-6)


def test_auto_is_one_device_on_a_cpu():
    assert make_strategy("auto").num_replicas_in_sync == 1


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(RequestError, match=r"batch_size is 100; it must be divisible by 3, .*accumulation \(3\)"):
        Trainer(Images(batch_size=100, accumulation=3), make_strategy("one_device"), STEPS)


if __name__ == "__main__":
    main(*sys.argv[1:])
