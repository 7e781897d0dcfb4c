"""Training: exact resumption, the run directory, optimizers and schedules."""

import functools
import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_tasks import Characters, CharactersWithDropout

from kerasnets.checks import RequestError
from kerasnets.data.batches import to_dataset
from kerasnets.run.directory import RunDirectory
from kerasnets.training.best import is_best
from kerasnets.training.loop import train
from kerasnets.training.strategies import make_strategy
from kerasnets.training.trainer import Trainer

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
    trainer.take_step(next(iter(trainer.batches(0))))
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
        def validate(self, model, share):
            if self.validations == 1:
                model.trainable_variables[-1].assign(np.full(model.trainable_variables[-1].shape, np.inf))
            return super().validate(model, share) | {"score": 1.0}  # the metric does not show it

        def loss(self, *arguments, **options):
            loss, weight, carry = super().loss(*arguments, **options)
            return tf.where(tf.math.is_finite(loss), loss, 0.0), weight, carry  # and neither does the loss

    run = RunDirectory(tmp_path)
    with pytest.raises(FloatingPointError, match="a weight is NaN or infinite at step 9; resume the run from step 6"):
        train(InfiniteWeight(epochs=3), make_strategy("one_device"), run)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-3.index", "ckpt-6.index"]


def test_a_validation_that_is_not_finite_removes_its_checkpoint(tmp_path):
    class InfiniteScore(Characters):
        def validate(self, model, share):
            scores = super().validate(model, share)
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

    def validate(self, model, share):
        super().validate(model, share)
        return {"score": [1.0, 2.0, 1.5, 1.9, 2.0, 3.0][self.validations - 1]}


def test_training_ends_without_a_better_validation(tmp_path, monkeypatch):
    run, one = RunDirectory(tmp_path), make_strategy("one_device")
    metrics = train(Settled(epochs=9, patience=3), one, run)
    assert metrics["steps"] == 15 and metrics["best"]["epoch"] == 5 and metrics["last"]["epoch"] == 5
    again = Settled(epochs=9, patience=3)
    assert train(again, one, run)["last"] == metrics["last"]  # it stays ended
    assert again.validations == 0


@pytest.mark.parametrize("option", [{"average_decay": 0.5}, {"average_epochs": 2}], ids=str)
def test_the_average_of_the_weights_is_validated_and_saved(option, tmp_path):
    class Averaged(Characters):
        validated = ()

        def validate(self, model, share):
            self.validated = model.get_weights()
            return super().validate(model, share)

    options = {"epochs": 3} | option
    task, run = Averaged(**options), RunDirectory(tmp_path)
    train(task, make_strategy("one_device"), run)
    trainer = Trainer(Averaged(**options), make_strategy("one_device"), 9)
    history, averages = [], None
    for batch in trainer.batches(0):
        trainer.take_step(batch)
        history.append(trainer.weights())
        averages = [(a + w) / 2 for a, w in zip(averages or history[0], history[-1], strict=True)]
    if "average_epochs" in option:  # those at the end of the last two epochs
        averages = [(a + w) / 2 for a, w in zip(history[5], history[8], strict=True)]
    for ours, validated, expected in zip(run.load_model().get_weights(), task.validated, averages, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        np.testing.assert_array_equal(validated, ours)
    with trainer.exported_model():
        pass
    for variable, expected in zip(trainer.weights(), history[-1], strict=True):
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
    loss, weight, _ = trainer.take_step(next(iter(trainer.batches(0))))
    assert loss == weight == 0
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
