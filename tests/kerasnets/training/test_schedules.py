"""Optimizers and learning rates."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_tasks import Characters, Images, Pairs

from kerasnets.config.run import Training
from kerasnets.training.schedules import OneCycle, WarmUp, make_optimizer


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
    for schedule in (WarmUp("cosine", 2.0, 4, 20), OneCycle(2.0, 20)):
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        assert restored.get_config() == schedule.get_config()


def test_one_cycle_rises_and_falls_along_cosines():
    """As torch.optim.lr_scheduler.OneCycleLR with its defaults, but for its last value of 1/250,000."""
    schedule = OneCycle(2.0, 100)
    values = [float(schedule(step)) for step in (0, 15, 30, 65, 100)]
    np.testing.assert_allclose(values, [0.08, 1.04, 2.0, 1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
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


def test_muon_updates_hidden_matrices_by_orthogonal_steps():
    """Every direction of a matrix has about the same step (Jordan et al. 2024); AdamW takes all other variables."""
    optimizer = make_optimizer(Training(optimizer="muon", learning_rate=0.1, schedule="cosine"), 10**9)
    variables = Pairs().model().trainable_variables
    optimizer.build(variables)
    by_adamw = {v.path.partition("/")[2] for v in variables if optimizer._should_use_adamw(v)}
    assert by_adamw == {v.path.partition("/")[2] for v in variables if len(v.shape) < 2} | {"embedding/embeddings"}
    assert any(optimizer._should_use_adamw(v) for v in Images().model().trainable_variables if "/out/kernel" in v.path)
    rng = np.random.default_rng(0)
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        if not optimizer._should_use_adamw(variable):
            steps = np.linalg.svd(variable.numpy() - old, compute_uv=False)
            expected = 0.1 * 0.2 * np.sqrt(max(variable.shape))  # the step size of Liu et al. 2025, equation 4
            assert np.all((steps > 0.5 * expected) & (steps < 1.5 * expected)), variable.path


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_adamw_has_the_numbers_of_keras(average_decay):
    options = Training(weight_decay=0.1, learning_rate=0.01, beta_2=0.98, average_decay=average_decay)
    ours, model = make_optimizer(options, 10), Pairs().model()
    config = ours.get_config() | {"learning_rate": ours._learning_rate}
    theirs, other = keras.optimizers.AdamW(**config), Pairs().model()
    theirs.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    other.set_weights(model.get_weights())
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in model.trainable_variables]
        ours.apply(gradients, model.trainable_variables)
        theirs.apply(gradients, other.trainable_variables)
    for optimizer, variables in ((ours, model.trainable_variables), (theirs, other.trainable_variables)):
        if average_decay:
            optimizer.finalize_variable_values(variables)
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
