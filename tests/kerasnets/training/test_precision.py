"""Mixed precision: its numbers are near those of float32, overflows are left out, and what is saved is float32."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_tasks import Characters, Images, Pairs

from kerasnets.checks import RequestError
from kerasnets.run.directory import RunDirectory
from kerasnets.training.loop import train
from kerasnets.training.precision import LossScale, check_precision
from kerasnets.training.strategies import make_strategy
from kerasnets.training.trainer import Trainer


def losses(task, steps=6):
    trainer = Trainer(task, make_strategy("one_device"), steps)
    return trainer, [trainer.take_step(batch)[0] for batch in trainer.batches(0)]


@pytest.mark.parametrize("task", [Images, Characters, Pairs])
def test_mixed_precision_has_nearly_the_losses_of_float32(task):
    _, expected = losses(task())
    for precision in ("bfloat16", "float16"):
        trainer, ours = losses(task(precision=precision))
        assert ours != expected
        np.testing.assert_allclose(ours, expected, rtol=0.02)
        assert {v.dtype for v in trainer.model.trainable_variables} == {"float32"}
        assert trainer.model.dtype_policy.compute_dtype == precision
    assert keras.config.dtype_policy().name == "float32"


def test_a_step_whose_gradients_overflow_is_left_out():
    trainer = Trainer(Characters(precision="float16"), make_strategy("one_device"), 6)
    trainer.loss_scale.scale = 2.0**40
    weights, batches = trainer.weights(), iter(trainer.batches(0))
    trainer.take_step(next(batches))
    assert trainer.loss_scale.scale == 2.0**39 and int(trainer.optimizer.iterations) == 0
    for before, after in zip(weights, trainer.weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    trainer.loss_scale.scale = 2.0**10
    trainer.take_step(next(batches))
    assert int(trainer.optimizer.iterations) == 1 and trainer.loss_scale.steps == 1


def test_the_scale_is_doubled_after_steps_without_overflow():
    scale = LossScale()
    scale.restore(np.array([8.0, LossScale.STEPS_TO_DOUBLE - 1]))
    scale.update(True)
    assert scale.state().tolist() == [16.0, 0]
    scale.restore(np.array([1.0, 5]))
    scale.update(False)
    assert scale.state().tolist() == [1.0, 0]


def test_the_saved_model_computes_in_float32(tmp_path):
    run = RunDirectory(tmp_path)
    train(Characters(precision="bfloat16", epochs=1), make_strategy("one_device"), run)
    model = run.load_model()
    assert "bfloat16" not in json.dumps(model.get_config())
    assert all(layer.compute_dtype == "float32" for layer in model._flatten_layers())
    assert model(tf.zeros((1, 3), tf.int32)).dtype == tf.float32


def test_float16_needs_a_gpu():
    check_precision("bfloat16", make_strategy("one_device"))
    with pytest.raises(RequestError, match="precision is float16, which needs a GPU, and there is none; use bfloat16"):
        check_precision("float16", make_strategy("one_device"))
