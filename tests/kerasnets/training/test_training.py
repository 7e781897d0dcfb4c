"""Training: several devices, exact resumption, clipping, the run directory, schedules.

Two devices must be configured before TensorFlow starts, so this file runs itself as a program for them.
"""

import functools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasnets.checks import RequestError
from kerasnets.config.run import Training
from kerasnets.data.batches import to_dataset, varying_shapes
from kerasnets.models import CharLSTM, ConvNet, Transformer
from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.losses import cross_entropy
from kerasnets.tasks.samples import Samples
from kerasnets.training.best import is_best
from kerasnets.training.loop import Trainer, make_strategy, train
from kerasnets.training.schedules import WarmUp, make_optimizer
from kerasnets.training.step import make_step

STEPS_PER_EPOCH = 3


class FakeTask:
    """A task with random data. The validation number `stop_at` fails, as if the process had been killed."""

    best_metric, best_is = "score", "highest"
    steps_per_epoch, examples_per_step = STEPS_PER_EPOCH, 8
    weight_unit, padding = "rows", 0.25
    shapes_vary = False

    def __init__(self, stop_at=None, **training):
        options = {"epochs": 2, "clip_norm": 0.5, "weight_decay": 0.01, "learning_rate": 0.01} | training
        self.config = SimpleNamespace(seed=3, training=Training(**options))
        self.stop_at, self.validations = stop_at, 0

    def training_batches(self, start, stop):
        def batch(step):
            return self.batch(step, np.random.default_rng([5, step]))

        return to_dataset(varying_shapes(batch) if self.shapes_vary else batch, start, stop)

    def initial_carry(self):
        return ()

    def validate(self, model):
        self.validations += 1
        if self.validations == self.stop_at:
            raise InterruptedError
        return {"score": float(sum(np.abs(v.numpy()).sum() for v in model.trainable_variables))}

    def samples(self, model):
        batch = next(iter(self.training_batches(0, 1)))
        loss, *_ = self.loss(model, batch, self.initial_carry(), training=False)
        return Samples("losses", [{"loss": f"{loss:.1f}"}], np.zeros((1, 4, 4, 1), np.uint8))

    def split_sizes(self):
        return {"train": 8 * STEPS_PER_EPOCH}


class Images(FakeTask):
    """Its network has batch normalization."""

    def model(self):
        model = ConvNet(3, filters=(4, 5))
        model.build((None, None, None, 1))
        return model

    def batch(self, step, rng):
        pixels = rng.integers(0, 255, (8, 8, 8, 1)) // np.arange(1, 9)[:, None, None, None]  # all different
        return {"pixels": pixels.astype(np.uint8), "labels": rng.integers(0, 3, 8).astype(np.int32)}

    def loss(self, model, batch, carry, training):
        losses = cross_entropy(model(batch["pixels"], training=training), batch["labels"], 0.1)
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), carry


class Characters(FakeTask):
    """Carries the LSTM's states from step to step."""

    dropout = 0.0

    def model(self):
        model = CharLSTM(7, width=4, units=6, num_layers=2, dropout=self.dropout)
        model.build((None, None))
        return model

    def batch(self, step, rng):
        tokens = rng.integers(1, 7, (8, 6)).astype(np.int32)
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def initial_carry(self):
        rng = np.random.default_rng(2)  # rows differ, so that a wrong order is detected
        return [tuple(rng.normal(0, 1, (8, 6)).astype(np.float32) for _ in "hc") for _ in range(2)]

    def loss(self, model, batch, carry, training):
        logits, states = model.run(batch["inputs"], carry, training=training)
        losses = cross_entropy(logits, batch["targets"])
        return tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32), states


class CharactersWithDropout(Characters):
    dropout = 0.4


class Pairs(FakeTask):
    """Rows have different weights because of padding. Batches have different shapes, and one an odd number of rows."""

    shapes_vary = True

    def model(self):
        model = Transformer(9, 8, 2, 12, num_blocks=1, dropout=0.0, norm="pre")
        model.build({"source": (None, None), "target": (None, None)})
        return model

    def batch(self, step, rng):
        rows = 7 if step == 1 else 8
        tokens = rng.integers(1, 9, (rows, 6 + step)).astype(np.int32)
        tokens[np.arange(6 + step) >= np.linspace(1, 6 + step, rows).round()[:, None]] = 0  # short rows come first
        return {"source": tokens, "target": tokens}

    def loss(self, model, batch, carry, training):
        target = batch["target"]
        logits = model({"source": batch["source"], "target": target[:, :-1]}, training=training)
        weights = tf.cast(target[:, 1:] != 0, tf.float32)
        return tf.reduce_sum(weights * cross_entropy(logits, target[:, 1:])), tf.reduce_sum(weights), carry


class Averages(Characters):
    """Ends with the averages in place of the weights."""

    def __init__(self, **training):
        super().__init__(**{"average_decay": 0.9, "optimizer": "sgd", "learning_rate": 1.0} | training)


# Two devices.


def three_steps(task, strategy):
    """-> loss and weight of each step; then the weights and the carry; for each step the rows of each device."""
    trainer = Trainer(task, strategy, steps=6)
    # Adam divides by the size of the gradients: a larger epsilon keeps it from scaling rounding errors up.
    trainer.optimizer.epsilon = 1e-4
    batches, results, rows = iter(trainer.batches(0)), [], []
    for _ in range(3):
        batch = next(batches)
        rows.append([len(part) for part in strategy.experimental_local_results(next(iter(batch.values())))])
        loss, weight, trainer.carry = trainer.step(batch, trainer.carry)
        results.append((float(loss), float(weight)))
    assert trainer.step.experimental_get_tracing_count() == 1  # one graph for all shapes
    with trainer.averaged_weights():
        return results, values(trainer), trainer.collect_carry(), rows


def values(trainer):
    """-> the variables of the model by index and path, without the model's name, which contains a counter."""
    variables = enumerate(trainer.model.variables)
    return {f"{n}/{variable.path.partition('/')[2]}": variable.numpy() for n, variable in variables}


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
    step = make_step(Linear(), model, optimizer, strategy, 0.5, data.element_spec, ())
    step(next(iter(data)), ())
    return model.get_weights()[0].ravel().tolist()


def difference(ours, theirs):
    """-> the largest difference between two nestings of arrays."""
    pairs = zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)


def compare_devices():
    """Print the differences between one device and two, as JSON."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    one, two = make_strategy("one_device"), make_strategy("mirrored")
    report = {
        "replicas": [one.num_replicas_in_sync, two.num_replicas_in_sync, make_strategy("auto").num_replicas_in_sync]
    }
    for task in (Images, Averages, Characters, Pairs):
        (losses, weights, carry, _), (losses2, weights2, carry2, rows) = (
            three_steps(task(), one),
            three_steps(task(), two),
        )
        assert list(weights) == list(weights2)
        paths = [path for path in weights if "seed_generator" not in path]
        initial = values(Trainer(task(), one, steps=6))
        report[task.__name__] = {
            "losses": np.abs(np.subtract(losses, losses2)).max(axis=0).tolist(),
            "weights": difference([weights[p] for p in paths], [weights2[p] for p in paths]),
            # A key's bias shifts all scores equally, so its gradient is zero except for rounding errors.
            "update": min(difference(weights[p], initial[p]) for p in paths if not p.endswith("key/bias")),
            "carry": difference(carry, carry2),
            "rows": rows,
        }
    report["clipped"] = [clipped_step(one), clipped_step(two)]
    print(json.dumps(report))


@pytest.fixture(scope="module")
def devices():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_mirrored_uses_all_devices_and_auto_one_cpu(devices):
    assert devices["replicas"] == [1, 2, 1]


@pytest.mark.parametrize("task", ["Images", "Averages", "Characters", "Pairs"])
def test_two_devices_compute_the_same_as_one(devices, task):
    report = devices[task]
    assert report["update"] > 1e-3  # all weights have changed
    assert report["losses"][0] < 1e-5
    assert report["losses"][1] == 0
    assert report["weights"] < 1e-5
    assert report["carry"] < 1e-5


def test_batches_are_split_over_the_devices(devices):
    assert devices["Characters"]["rows"] == [[4, 4]] * 3
    assert devices["Pairs"]["rows"] == [[4, 4], [4, 3], [4, 4]]


def test_gradients_are_clipped_after_the_sum(devices):
    # The mean [1.5, 2] has norm 2.5 and is clipped to 0.5; clipping on each device would give another direction.
    for weights in devices["clipped"]:
        np.testing.assert_allclose(weights, [-0.3, -0.4], atol=1e-6)


# Resuming.


def run_files(path):
    """-> the log without timings, the weights of model.keras, and the newest checkpoint."""
    timings = {"seconds", "step_seconds", "examples_per_second", "rows_per_second", "data_wait"}
    log = [json.loads(line) for line in (path / "log.jsonl").read_text("utf-8").splitlines()]
    log = [{key: value for key, value in entry.items() if key not in timings} for entry in log]
    model = RunDirectory(path).load_model()
    newest = max((path / "checkpoints").glob("ckpt-*.index"), key=lambda file: int(file.stem.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    checkpoint = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return (
        log,
        model.get_weights(),
        {name: value for name, value in checkpoint.items() if name.startswith(("variables/", "carry/"))},
    )


def assert_same_run(ours, theirs):
    """Compare the `run_files` of two runs bit for bit."""
    (log, weights, checkpoint), (log2, weights2, checkpoint2) = ours, theirs
    assert log == log2
    for array, array2 in zip(weights, weights2, strict=True):
        np.testing.assert_array_equal(array, array2)
    assert set(checkpoint) == set(checkpoint2)
    for name, value in checkpoint.items():
        np.testing.assert_array_equal(value, checkpoint2[name], err_msg=name)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """-> directory of an uninterrupted run, directory of a run that was interrupted in epoch 2 and resumed; the metrics
    of both."""
    uninterrupted, interrupted = tmp_path_factory.mktemp("uninterrupted"), tmp_path_factory.mktemp("interrupted")
    one, make = make_strategy("one_device"), functools.partial(CharactersWithDropout, epochs=3)
    expected = train(make(), one, RunDirectory(uninterrupted))
    with pytest.raises(InterruptedError):
        train(make(stop_at=2), one, RunDirectory(interrupted))
    log = (interrupted / "log.jsonl").read_text("utf-8")
    assert [json.loads(line)["step"] for line in log.splitlines()] == [3, 3, 6]  # the last has no checkpoint
    with (interrupted / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "validation", "step": 6, "sc')  # an incomplete line
    return uninterrupted, interrupted, expected, train(make(), one, RunDirectory(interrupted))


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(resumed):
    uninterrupted, interrupted, *_ = resumed
    assert_same_run(run_files(interrupted), run_files(uninterrupted))


def test_resumed_training_has_the_same_metrics(resumed):
    *_, expected, metrics = resumed
    for name in ("splits", "parameters", "steps", "best", "last"):
        assert metrics[name] == expected[name], name
    assert metrics["steps"] == metrics["last"]["step"] == 9


def test_a_checkpoint_contains_optimizer_carry_and_random_generators(resumed):
    _, _, checkpoint = run_files(resumed[0])
    model = CharactersWithDropout().model()
    assert len(model.variables) > len(model.weights)  # the dropouts' generators are not weights
    variables = [name for name in checkpoint if name.startswith("variables/")]
    moments = 2 * len(model.trainable_variables)
    assert len(variables) >= len(model.variables) + moments + 1  # and the number of steps
    assert sum(name.startswith("carry/") for name in checkpoint) == 4


def test_random_generators_change_in_a_step():
    """Otherwise the test of resumed training would pass even if checkpoints lacked the generators."""
    trainer = Trainer(CharactersWithDropout(), make_strategy("one_device"), 6)
    generators = [v for v in trainer.model.variables if "seed" in v.path]
    before = [v.numpy() for v in generators]
    trainer.step(next(iter(trainer.batches(0))), trainer.carry)
    assert generators
    assert all(np.any(old != v.numpy()) for old, v in zip(before, generators, strict=True))


def test_finished_training_changes_nothing(resumed):
    finished, _, expected, _ = resumed
    before = run_files(finished)[0]
    again = train(CharactersWithDropout(stop_at=1, epochs=3), make_strategy("one_device"), RunDirectory(finished))
    assert again["last"] == expected["last"]
    assert run_files(finished)[0] == before


class Diverging(Characters):
    """The loss is NaN from step `first_nan` on, unless the learning rate is changed."""

    first_nan = 4

    def training_batches(self, start, stop):
        def batch(step):
            values = self.batch(step, np.random.default_rng([5, step]))
            diverges = step >= self.first_nan and self.config.training.learning_rate == 0.01
            return values | {"factor": np.full(8, np.nan if diverges else 1, np.float32)}

        return to_dataset(batch, start, stop)

    def loss(self, model, batch, carry, training):
        loss, weight, carry = super().loss(model, batch, carry, training)
        return loss * batch["factor"][0], weight, carry


def test_a_nan_loss_ends_training_with_a_remedy(tmp_path):
    run, one = RunDirectory(tmp_path), make_strategy("one_device")
    remedy = "with the same command and --resume-with training.learning_rate=0.005 or another option"
    with pytest.raises(FloatingPointError, match=f"the loss is nan at step 6; resume the run from step 3, .*{remedy}"):
        train(Diverging(), one, run)
    assert all(np.isfinite(weights).all() for weights in run.load_model().get_weights())
    with pytest.raises(FloatingPointError, match="the loss is nan at step 6"):
        train(Diverging(), one, run)  # without changes it fails again
    metrics = train(Diverging(learning_rate=0.005), one, run, {"training.learning_rate": [0.01, 0.005]})
    assert metrics["steps"] == 6 and np.isfinite(metrics["last"]["score"])
    assert run.history("options") == [{"kind": "options", "step": 3, "training.learning_rate": [0.01, 0.005]}]
    assert [entry["step"] for entry in run.history("training")] == [3, 6]


def test_infinite_weights_are_not_saved(tmp_path):
    class InfiniteWeight(Characters):
        def validate(self, model):
            if self.validations == 1:
                model.trainable_variables[-1].assign(np.full(model.trainable_variables[-1].shape, np.inf))
            return super().validate(model) | {"score": 1.0}  # the metric does not show it

        def loss(self, *arguments, **options):
            loss, weight, carry = super().loss(*arguments, **options)
            return tf.where(tf.math.is_finite(loss), loss, 0.0), weight, carry  # and neither does the loss

    run = RunDirectory(tmp_path)
    with pytest.raises(FloatingPointError, match="a weight is NaN or infinite at step 9; resume the run from step 6"):
        train(InfiniteWeight(epochs=3), make_strategy("one_device"), run)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-3.index", "ckpt-6.index"]


def test_a_validation_that_is_not_finite_removes_its_checkpoint(tmp_path):
    class InfiniteScore(Characters):
        def validate(self, model):
            scores = super().validate(model)
            return {"score": np.nan} if self.validations == 2 else scores

    run = RunDirectory(tmp_path)
    with pytest.raises(FloatingPointError, match="the score is nan at step 6; resume the run from step 3"):
        train(InfiniteScore(), make_strategy("one_device"), run)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.index")] == ["ckpt-3.index"]
    assert all(np.isfinite(weights).all() for weights in run.load_model().get_weights())


def test_a_failed_first_epoch_writes_no_model(tmp_path):
    class DivergingAtOnce(Diverging):
        first_nan = 0

    with pytest.raises(FloatingPointError, match="the loss is nan at step 3; resume the run from the start, with"):
        train(DivergingAtOnce(), make_strategy("one_device"), RunDirectory(tmp_path))
    assert not (tmp_path / "model.keras").exists()


class Settled(Characters):
    """Scores that fall after the second validation."""

    def validate(self, model):
        super().validate(model)
        return {"score": [1.0, 2.0, 1.5, 1.9, 2.0, 3.0][self.validations - 1]}


def test_training_ends_without_a_better_validation(tmp_path, monkeypatch):
    run, one = RunDirectory(tmp_path), make_strategy("one_device")
    metrics = train(Settled(epochs=9, patience=3), one, run)
    assert metrics["steps"] == 15 and metrics["best"]["epoch"] == 5 and metrics["last"]["epoch"] == 5
    again = Settled(epochs=9, patience=3)
    assert train(again, one, run)["last"] == metrics["last"]  # it stays ended
    assert again.validations == 0


def test_the_average_of_the_weights_is_validated_and_saved(tmp_path):
    class Averaged(Characters):
        validated = ()

        def validate(self, model):
            self.validated = model.get_weights()
            return super().validate(model)

    options = {"epochs": 2, "average_decay": 0.5}
    task, run = Averaged(**options), RunDirectory(tmp_path)
    train(task, make_strategy("one_device"), run)
    trainer = Trainer(Averaged(**options), make_strategy("one_device"), 6)
    averages = None
    for batch in trainer.batches(0):
        _, _, trainer.carry = trainer.step(batch, trainer.carry)
        weights = [v.numpy() for v in trainer.model.trainable_variables]
        averages = weights if averages is None else [(a + w) / 2 for a, w in zip(averages, weights, strict=True)]
    for ours, validated, expected in zip(run.load_model().get_weights(), task.validated, averages, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        np.testing.assert_array_equal(validated, ours)
    for variable, expected in zip(trainer.model.trainable_variables, weights, strict=True):
        with trainer.averaged_weights():
            pass
        np.testing.assert_array_equal(variable, expected)  # training goes on with the weights themselves


# Damaged files.


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def finished_run(resumed, tmp_path):
    """-> a copy of the finished run of three epochs, with the checkpoints of the last two."""
    shutil.copytree(resumed[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "missing", "index truncated", "leftovers"])
def test_training_resumes_from_the_newest_undamaged_checkpoint(finished_run, resumed, damage, capsys):
    (data,) = (finished_run / "checkpoints").glob("ckpt-9.data*")
    if damage == "truncated":
        truncate(data)
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "changed":
        middle = data.stat().st_size // 2
        content = data.read_bytes()
        data.write_bytes(content[:middle] + bytes(16) + content[middle + 16 :])
    elif damage == "missing":
        data.unlink()
    elif damage == "index truncated":
        truncate(finished_run / "checkpoints" / "ckpt-9.index")
    else:
        (finished_run / "checkpoints" / "checkpoint").unlink()  # without it TensorFlow finds no checkpoint
        (finished_run / "checkpoints" / "ckpt-12_temp").mkdir()
    metrics = train(CharactersWithDropout(epochs=3), make_strategy("one_device"), RunDirectory(finished_run))
    (log, weights, _), (log2, weights2, _) = run_files(resumed[0]), run_files(finished_run)
    assert metrics["last"] == resumed[2]["last"] and log == log2
    for ours, theirs in zip(weights, weights2, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    errors = capsys.readouterr().err
    if damage == "leftovers":
        assert "resuming from step 9 (epoch 3)" in errors
        assert not (finished_run / "checkpoints" / "ckpt-12_temp").exists()
    else:
        assert "the checkpoint of step 9 is damaged or cut off.\nresuming from step 6 (epoch 2)" in errors


def test_damage_of_all_checkpoints_is_reported(finished_run):
    one = make_strategy("one_device")
    for path in (finished_run / "checkpoints").glob("ckpt-*.data*"):
        truncate(path)
    with pytest.raises(RequestError, match="no checkpoint in .* can be read; put one back from a copy, or remove"):
        train(CharactersWithDropout(epochs=3), one, RunDirectory(finished_run))


def test_a_truncated_log_and_too_few_epochs_are_reported(finished_run):
    one = make_strategy("one_device")
    with pytest.raises(
        RequestError, match="training.epochs is 2; it must be 3 or more, the epochs that the run has completed"
    ):
        RunDirectory(finished_run).check_epochs(2)
    RunDirectory(finished_run).check_epochs(3)
    truncate(finished_run / "log.jsonl")
    with pytest.raises(RequestError, match=r"log.jsonl is damaged or cut off: it has no validation of step 6"):
        train(CharactersWithDropout(epochs=3), one, RunDirectory(finished_run))


def test_a_damaged_model_is_rewritten_from_the_checkpoint(finished_run, capsys):
    run = RunDirectory(finished_run)
    truncate(finished_run / "model.keras")
    with pytest.raises(RequestError, match="model.keras is damaged or cut off; run the train command"):
        run.load_model()
    metrics = train(CharactersWithDropout(epochs=3), make_strategy("one_device"), run)
    assert "model.keras was damaged or missing; it now has the weights of that step." in capsys.readouterr().err
    assert metrics["best"] == metrics["last"]  # the weights of the best epoch are lost
    checkpoint = run_files(finished_run)[2]
    saved = {value.tobytes() for value in checkpoint.values()}
    assert all(weights.tobytes() in saved for weights in run.load_model().get_weights())


def test_a_failed_save_keeps_the_former_model(tmp_path, monkeypatch):
    run, model = RunDirectory(tmp_path), Characters().model()
    run.save_model(model)

    def fail(path):
        path.write_bytes(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        run.save_model(model)
    assert run.has_intact_model() and [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_a_batch_without_weight_changes_nothing():
    class Weightless(Characters):
        def loss(self, *arguments, **options):
            loss, weight, carry = super().loss(*arguments, **options)
            return loss * 0, weight * 0, carry

    trainer = Trainer(Weightless(weight_decay=0.0), make_strategy("one_device"), 6)
    before = trainer.model.get_weights()
    loss, weight, _ = trainer.step(next(iter(trainer.batches(0))), trainer.carry)
    assert float(loss) == float(weight) == 0
    for old, new in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


# The run directory.


def test_rewind_deletes_log_entries_after_a_step(tmp_path):
    run = RunDirectory(tmp_path / "new" / "run")
    for step in (1, 2, 3):
        run.log("training", step=step, loss=1 / step)
        run.log("validation", step=step, score=step)
    run.rewind(2)
    assert [entry["step"] for entry in run.history("training")] == [1, 2]
    assert run.history("validation")[-1] == {"kind": "validation", "step": 2, "score": 2}
    assert [path.name for path in run.path.iterdir()] == ["log.jsonl"]
    run.rewind(0)
    assert run.history("training") == run.history("validation") == []


def test_an_incomplete_last_log_line_is_ignored_and_removed(tmp_path):
    run = RunDirectory(tmp_path)
    run.log("training", step=1, loss=0.1)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "training", "step": 2, "lo')
    assert [entry["step"] for entry in run.history("training")] == [1]
    run.rewind(5)
    run.log("training", step=2, loss=0.2)
    assert [entry["step"] for entry in run.history("training")] == [1, 2]


def test_a_run_without_a_log_has_no_history(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.history("training") == []
    run.rewind(0)
    assert run.history("validation") == []


def test_a_saved_model_replaces_the_former_one(tmp_path):
    run = RunDirectory(tmp_path)
    first, second = Characters().model(), Characters().model()
    run.save_model(first)
    run.save_model(second)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    for ours, theirs in zip(run.load_model().get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_metrics_contain_package_versions(tmp_path):
    RunDirectory(tmp_path).finish({"best": {"score": 1.5}, "name": "ü"})
    metrics = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert metrics["best"] == {"score": 1.5}
    assert metrics["packages"]["tensorflow"] == tf.__version__
    assert metrics["packages"]["keras"] == keras.__version__


@pytest.mark.parametrize(
    ("best_is", "history", "value", "expected"),
    [
        ("highest", [], 0.0, True),
        ("highest", [0.3, 0.5], 0.6, True),
        ("highest", [0.3, 0.5], 0.4, False),
        ("lowest", [0.3, 0.5], 0.2, True),
        ("lowest", [0.3, 0.5], 0.4, False),
    ],
)
def test_is_best_compares_with_earlier_validations(best_is, history, value, expected):
    task = SimpleNamespace(best_metric="x", best_is=best_is)
    assert is_best(task, {"x": value}, [{"x": earlier} for earlier in history]) is expected


# Schedules.


def rates(schedule, warmup_steps, total_steps, steps):
    return [float(WarmUp(schedule, 2.0, warmup_steps, total_steps)(step)) for step in steps]


def test_warm_up_rises_linearly_to_the_peak():
    for schedule in ("cosine", "inverse_sqrt"):
        np.testing.assert_allclose(rates(schedule, 4, 20, range(4)), [0.5, 1.0, 1.5, 2.0], rtol=1e-6)


def test_cosine_falls_to_zero_at_the_last_step():
    expected = [2.0, 1 + math.cos(math.pi / 4), 1.0, 0.0, 0.0]
    np.testing.assert_allclose(rates("cosine", 4, 20, [4, 8, 12, 20, 25]), expected, atol=1e-6)
    np.testing.assert_allclose(rates("cosine", 0, 10, [0, 5, 10]), [2.0, 1.0, 0.0], atol=1e-6)


def test_inverse_square_root_falls_with_the_step():
    np.testing.assert_allclose(rates("inverse_sqrt", 4, 20, [3, 15, 63]), [2.0, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(rates("inverse_sqrt", 0, 20, [0, 3]), [2.0, 1.0], rtol=1e-6)


def test_a_schedule_survives_serialization():
    schedule = WarmUp("cosine", 2.0, 4, 20)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert restored.get_config() == schedule.get_config()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_excludes_biases_and_normalizations(name):
    for task in (Images(), Characters(), Pairs()):
        variables = task.model().trainable_variables
        optimizer = make_optimizer(Training(optimizer=name, weight_decay=0.1, learning_rate=0.5), steps=10)
        optimizer.build(variables)
        for variable in variables:
            variable.assign(np.ones(variable.shape))
        optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
        for variable in variables:
            excluded = variable.path.rsplit("/", 1)[-1] in ("bias", "gamma", "beta")
            np.testing.assert_allclose(variable, 1.0 if excluded else 1 - 0.1 * 0.5, rtol=1e-6, err_msg=variable.path)


def test_sgd_has_nesterov_momentum():
    """v = m v - r g; w += m v - r g (Sutskever et al. 2013, in the form of Bengio et al. 2013)."""
    optimizer = make_optimizer(Training(optimizer="sgd", learning_rate=0.1, momentum=0.9, schedule="cosine"), 10**9)
    weight, velocity, expected = keras.Variable(np.ones(3, np.float32)), 0.0, np.ones(3)
    optimizer.build([weight])
    for gradient in (1.0, -2.0, 0.5):
        optimizer.apply([tf.fill([3], gradient)], [weight])
        velocity = 0.9 * velocity - 0.1 * gradient
        expected = expected + 0.9 * velocity - 0.1 * gradient
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


if __name__ == "__main__":
    compare_devices()
